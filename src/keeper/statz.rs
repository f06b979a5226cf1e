//! Asks zero-cache how far its SQLite replica is: `/statz`, which tells the `commit_lsn` of what was applied last.

use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tokio::sync::oneshot;
use ureq::Agent;

use crate::client;
use crate::config::Statz;
use crate::gate::Piece;
use crate::lsn::Lsn;

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// More is no answer of zero-cache's.
const LONGEST: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Answer {
    replication: Replication,
}

#[derive(Deserialize)]
struct Replication {
    lsn: Option<Lsn>,
    error: Option<String>,
}

/// Who is asked.
pub(super) struct Replica {
    agent: Agent,
    config: Statz,
}

impl Replica {
    pub(super) fn new(config: Statz) -> Replica {
        Replica { agent: client::agent(TIMEOUT, &[]), config }
    }

    /// Asks on a thread of its own: this one relays.
    pub(super) async fn ask(&self) -> Piece<Lsn> {
        let at = Instant::now();
        let (tell, told) = oneshot::channel();
        let (agent, config) = (self.agent.clone(), self.config.clone());
        let asking = thread::Builder::new().name("statz".into()).spawn(move || {
            // Who has asked may be gone.
            let _ = tell.send(read(&agent, &config));
        });
        let host = self.config.url.host();
        match (asking, told.await) {
            (Ok(_), Ok(Ok(value))) => Piece::Seen { value, at, from: "zero-cache's /statz" },
            (Ok(_), Ok(Err(why))) => Piece::Unseen(format!("zero-cache's /statz at {host}: {why}")),
            (Ok(_), Err(_)) => Piece::Unseen(format!("zero-cache's /statz at {host} was not asked")),
            (Err(error), _) => Piece::Unseen(format!("zero-cache's /statz at {host} cannot be asked: {error}")),
        }
    }
}

fn read(agent: &Agent, config: &Statz) -> Result<Lsn, String> {
    let mut request = agent.get(config.url.expose()).query("group", "replication").query("format", "json");
    if let Some(password) = &config.password {
        // Any user will do.
        let basic = BASE64_STANDARD.encode(format!("walgate:{}", password.expose()));
        request = request.header("Authorization", format!("Basic {basic}"));
    }
    let mut response = request.call().map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200 => {}
        401 => return Err("it wants the admin password: statz_password_file".into()),
        status => return Err(format!("it answers with status {status}")),
    }
    let body = response.body_mut().with_config().limit(LONGEST).read_to_vec().map_err(|error| error.to_string())?;
    let Ok(Answer { replication }) = serde_json::from_slice(&body) else {
        return Err("it answers with something else than zero-cache does".into());
    };
    let why = || replication.error.unwrap_or("it does not say how far the replica is".into());
    replication.lsn.and_then(Lsn::valid).ok_or_else(why)
}
