//! The demo: it tells its story, and leaves nothing behind however it ends.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use support::{eventually, last_lines};
use tempfile::TempDir;
use walgate::scratch::{Signal, signal};

/// A demo with a directory for temporary files to itself.
struct Demo {
    child: Child,
    place: TempDir,
}

/// What is told, in this order.
const STORY: [&str; 20] = [
    "/v1/lag",
    "/metrics",
    "following ",
    "stalled ",
    "catching up ",
    "pg/no-identity, public.alembic_version",
    "mend: ALTER TABLE public.alembic_version ADD PRIMARY KEY (version_num);",
    "ERROR: cannot update table",
    "$ walgate check",
    "-- done in",
    "$ walgate gate check",
    "no fence stands",
    "$ walgate gate fence",
    "writes have not stopped",
    "A fence stands at",
    "public.orders_id_seq would give 1,",
    "$ walgate gate sequences",
    "PASS  cutover of blue-green",
    "The receipt counts until",
    "the shop opens on green",
];

#[test]
fn once_tells_the_story_and_finds_it_true() {
    let mut demo = Demo::start(&["--once"]);
    demo.wait_for_all(&STORY);
    let status = demo.ended();
    let output = demo.output();
    assert!(status.success(), "{output}");
    assert_eq!(output.matches("\nok ").count(), 19, "{output}");
    let mut rest = &*output;
    for part in STORY {
        let Some((_, after)) = rest.split_once(part) else { panic!("{part} is not where it belongs: {output}") };
        rest = after;
    }
    demo.left_nothing();
}

#[test]
fn an_interrupt_before_the_end_fails_and_leaves_nothing() {
    let mut demo = Demo::start(&["--once"]);
    demo.wait_for_all(&STORY[..13]);
    signal(demo.pid(), Signal::Interrupt);
    assert_eq!(demo.ended().code(), Some(1), "{}", demo.output());
    demo.left_nothing();
}

#[test]
fn an_interrupt_ends_it_and_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    demo.wait_for_all(&["following ", "stalled "]);
    signal(demo.pid(), Signal::Interrupt);
    assert!(demo.ended().success(), "{}", demo.output());
    demo.left_nothing();
}

#[test]
fn an_interrupt_while_it_starts_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    demo.wait_for("Starting");
    signal(demo.pid(), Signal::Interrupt);
    demo.ended();
    demo.left_nothing();
}

#[test]
fn a_demo_that_is_killed_leaves_nothing() {
    let mut demo = Demo::start(&["--once"]);
    demo.wait_for("following ");
    signal(demo.pid(), Signal::Kill);
    assert!(!demo.ended().success());
    demo.left_nothing();
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        // Its servers may run as another user.
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
        let output = File::create(place.path().join("output")).expect("a file can be made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
        command.arg("demo").args(arguments).env("TMPDIR", place.path()).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("the file can be shared")).stderr(output);
        Demo { child: command.spawn().expect("the demo starts"), place }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is positive")
    }

    fn output(&self) -> String {
        fs::read_to_string(self.place.path().join("output")).unwrap_or_default()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        eventually(text, || {
            let output = self.output();
            if output.contains(text) { Ok(()) } else { Err(last_lines(&output)) }
        });
    }

    /// Waits for one part after the other, however long all of them take.
    #[track_caller]
    fn wait_for_all(&self, parts: &[&str]) {
        for part in parts {
            self.wait_for(part);
        }
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        eventually("the demo to end", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err((other.err(), last_lines(&self.output()))),
        })
    }

    /// Waits until no process speaks of its directory and nothing but its output is in there.
    #[track_caller]
    fn left_nothing(&self) {
        let place = self.place.path().to_str().expect("the path is text");
        eventually("nothing to be left", || {
            let ps = Command::new("ps").args(["-A", "-o", "pid=,args="]).output().expect("ps starts");
            let processes = String::from_utf8_lossy(&ps.stdout).into_owned();
            let processes: Vec<String> =
                processes.lines().filter(|line| line.contains(place)).map(str::to_owned).collect();
            let files = fs::read_dir(place).expect("the directory is there").flatten();
            let files: Vec<_> = files.map(|file| file.file_name()).filter(|name| name != "output").collect();
            if processes.is_empty() && files.is_empty() { Ok(()) } else { Err((processes, files)) }
        });
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
