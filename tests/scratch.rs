//! Throw-away servers: every version starts, for whoever starts it, and nothing outlives its owner.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Sql, eventually, installation, postgres};
use tempfile::TempDir;
use walgate::scratch::{Installation, Signal, Stop, VERSIONS, find, obtain, signal};

/// Set in the copies of this program that [`again`] starts.
const ROLE: &str = "WALGATE_TEST_ROLE";

/// An ordinary user for root to become; any that is not root would do.
const ORDINARY: u32 = 65_534;

#[test]
fn every_supported_version_starts_and_answers() {
    for major in VERSIONS {
        let server = postgres(major).start().unwrap();
        assert_eq!(server.installation().major(), major);
        for dsn in [server.dsn("postgres"), server.socket_dsn("postgres")] {
            let sql = Sql::connect(&dsn);
            assert_eq!(sql.value("SHOW server_version"), server.installation().version());
            assert_eq!(sql.value("SHOW wal_level"), "logical");
        }
    }
}

#[test]
fn settings_access_and_tls_are_the_callers() {
    let mut names = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    names.distinguished_name = rcgen::DistinguishedName::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let tls = walgate::scratch::Tls {
        certificate: names.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
        client_roots: None,
    };
    let builder = postgres(18).superuser("boss").setting("application_name", "it's").tls(tls);
    let server = builder.access("host all stranger 127.0.0.1/32 reject").start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    assert_eq!(sql.value("SELECT current_user"), "boss");
    assert_eq!(sql.value("SELECT setting FROM pg_settings WHERE name = 'ssl'"), "on");
    sql.run("CREATE ROLE stranger LOGIN SUPERUSER");
    let refused = Sql::try_connect(&server.dsn("postgres").replace("boss", "stranger")).err().unwrap();
    assert!(refused.contains("pg_hba.conf rejects"), "{refused}");
    server.reload_with(&[("work_mem", "5MB")]).unwrap();
    sql.until("SHOW work_mem", "5MB");
}

#[test]
fn a_restart_keeps_the_port_and_the_data() {
    let mut server = postgres(17).start().unwrap();
    let port = server.port();
    Sql::connect(&server.dsn("postgres")).run("CREATE TABLE kept (); CHECKPOINT");
    for how in [Stop::Fast, Stop::Immediate] {
        server.restart(how).unwrap();
        assert_eq!(server.port(), port);
        assert_eq!(Sql::connect(&server.dsn("postgres")).value("SELECT count(*) FROM kept"), "0");
    }
    server.stop(Stop::Fast).unwrap();
    assert_eq!(server.postmaster_pid(), None);
    server.stop(Stop::Fast).unwrap();
}

#[test]
fn a_standby_follows_and_can_be_promoted() {
    let mut primary = postgres(16).start().unwrap();
    let conninfo = primary.dsn("postgres");
    let standby = primary.standby(&conninfo).unwrap();
    Sql::connect(&conninfo).run("CREATE TABLE followed (); INSERT INTO followed DEFAULT VALUES");
    let sql = Sql::connect(&standby.dsn("postgres"));
    sql.until("SELECT to_regclass('followed') IS NOT NULL", "t");
    assert_eq!(sql.value("SELECT pg_is_in_recovery()"), "t");
    standby.promote().unwrap();
    sql.run("INSERT INTO followed DEFAULT VALUES");
}

#[test]
fn a_server_that_cannot_start_is_quoted_and_removed() {
    let error = postgres(15).setting("shared_buffers", "none").start().unwrap_err().to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\": \"none\""), "{error}");
}

#[test]
fn an_owner_that_is_killed_leaves_nothing_behind() {
    if std::env::var_os(ROLE).is_some() {
        let server = postgres(18).start().unwrap();
        let pid = server.postmaster_pid().unwrap();
        println!("\nserver {pid} {} {}", server.port(), server.data_directory().display());
        std::io::stdin().read_exact(&mut [0]).unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let mut owner = again("an_owner_that_is_killed_leaves_nothing_behind", &place);
    let mut owner = owner.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("server ")).expect("the owner has a server");
    let [_, pid, port, data] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let (pid, port): (i32, u16) = (pid.parse().unwrap(), port.parse().unwrap());
    TcpStream::connect(("127.0.0.1", port)).unwrap();

    owner.kill().unwrap();
    owner.wait().unwrap();
    let directory = Path::new(data).parent().unwrap();
    eventually("the directory to be gone", || if directory.exists() { Err(directory) } else { Ok(()) });
    assert!(!is_running(pid));
    TcpStream::connect(("127.0.0.1", port)).unwrap_err();
}

#[test]
fn an_ordinary_user_starts_a_server_without_stepping_down() {
    if std::env::var_os(ROLE).is_some() {
        let server = postgres(18).start().unwrap();
        let owner = fs::metadata(server.data_directory()).unwrap().uid();
        assert_eq!(owner, fs::metadata(std::env::var_os("HOME").unwrap()).unwrap().uid());
        println!("\nuser {owner}");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mut child = again("an_ordinary_user_starts_a_server_without_stepping_down", &place);
    let mut user = fs::metadata(place.path()).unwrap().uid();
    if user == 0 {
        user = ORDINARY;
        std::os::unix::fs::chown(place.path(), Some(ORDINARY), Some(ORDINARY)).unwrap();
        child.uid(ORDINARY).gid(ORDINARY);
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(&format!("\nuser {user}\n")), "{text}");
}

#[test]
fn processes_that_obtain_the_same_build_at_once_share_one() {
    if std::env::var_os(ROLE).is_some() {
        let obtained = obtain(14).unwrap();
        assert_eq!(find(14).as_ref().map(Installation::version), Some(obtained.version()));
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("cache");
    let start = || {
        let mut child = again("processes_that_obtain_the_same_build_at_once_share_one", &place);
        child.env("WALGATE_CACHE", &cache).env_remove("WALGATE_PG_BIN");
        child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(), start(), start()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let names = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let visible: Vec<String> = names.filter(|name| !name.ends_with(".lock")).collect();
    assert_eq!(visible, ["postgresql-14.23.0-beta.17"]);
}

/// This program once more, for one test, from a place that another user can reach, which is also its home.
fn again(test: &str, place: &TempDir) -> Command {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let program = place.path().join("program");
    if !program.exists() {
        let this = std::env::current_exe().expect("a program has a path");
        fs::copy(this, &program).expect("the program can be copied");
    }
    // The builds that this process has serve the other as well.
    let postgres = installation(18).program("postgres").expect("a server has its program");
    let mut command = Command::new(program);
    command
        .args([test, "--exact", "--nocapture"])
        .env(ROLE, "child")
        .env("WALGATE_PG_BIN", postgres.with_file_name(""));
    command.env("HOME", place.path()).current_dir(place.path()).process_group(0);
    command
}

/// Whether there is such a process, and not only what is left of it until it is reaped.
fn is_running(pid: i32) -> bool {
    let zombie = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    signal(pid, Signal::Continue) && !zombie()
}
