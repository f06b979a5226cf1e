//! A gate over a consumer of which nothing is known but what it acknowledges.

use std::process::{Child, Command, Stdio};

use walgate::scratch::{Signal, signal};

use crate::scene::{Gate, Pair, Way, dsn};
use crate::support::{eventually, tool};

/// A pg_recvlogical; it ends with this value.
struct Receiver(Child);

impl Receiver {
    #[track_caller]
    fn start(dsn: &str, directory: &tempfile::TempDir) -> Receiver {
        let mut command = Command::new(tool("pg_recvlogical"));
        command.args(["--start", "--slot=app", "--option=proto_version=1", "--option=publication_names=everything"]);
        command.args(["--fsync-interval=1", "--status-interval=1", "--dbname", dsn]);
        command.arg("--file").arg(directory.path().join("changes"));
        Receiver(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("pg_recvlogical starts"))
    }

    fn signal(&self, what: Signal) {
        signal(i32::try_from(self.0.id()).expect("a process id is positive"), what);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_gate_over_a_bare_slot_opens_once_its_reader_has_acknowledged_everything() {
    let pair = Pair::start(18, 18);
    for way in Way::ALL {
        let (blue, _green) = pair.databases(way.as_str());
        blue.run("SELECT pg_create_logical_replication_slot('app', 'pgoutput')");
        let gate = Gate::start(&dsn(&pair.source, way.as_str()), way, &["app"], "[gate.target]\nkind = \"slot\"");
        gate.check_until("preflight", "slot", "wait", "nobody reads app");
        let port = if way == Way::Proxy { gate.walgate.port() } else { pair.source.port() };
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let receiver = Receiver::start(&pair.source.dsn_via(port, way.as_str()), &directory);
        blue.run("INSERT INTO orders VALUES (2, 'x')");
        gate.until("preflight", "pass", "may begin");
        let lsn = blue.value("SELECT pg_current_wal_flush_lsn()");
        blue.until(
            &format!("SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = 'app'"),
            "t",
        );

        receiver.signal(Signal::Stop);
        blue.run("INSERT INTO orders VALUES (3, 'x'); INSERT INTO orders VALUES (4, 'x')");
        gate.fence();
        // Where changes are decoded, they are counted.
        let said = if way == Way::Poll { "app has confirmed" } else { "app has 1 transaction (2 rows) to acknowledge" };
        gate.until("cutover", "wait", said);
        receiver.signal(Signal::Continue);
        let answer = gate.ask("cutover", "&wait=60s");
        assert_eq!(answer.state(), "pass", "{way:?}: {answer}");

        drop(receiver);
        gate.turns("cutover", "wait", "nobody reads app");
        blue.run("SELECT pg_drop_replication_slot('app')");
        eventually("the slot to be missed", || {
            let answer = gate.cutover();
            let said = answer.is("fail", "there is no slot app");
            if said { Ok(()) } else { Err(answer) }
        });
    }
}
