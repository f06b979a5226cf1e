//! Records `proto-fixtures` from throw-away servers of every version: `cargo run --example record-fixtures`, with
//! version numbers to record only those, and `bench` for the streams of the benches.
//!
//! Each recording has a database of its own, in which its schema is made before `walgate tail --raw` starts and its
//! workload is run once the slot is there. It ends when everything has been acknowledged. The workloads are SQL files
//! whose statements are paragraphs, so that what must be a message of its own on the wire is one.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use tokio::runtime::Runtime;
use walgate::scratch::{self, Server, Signal, VERSIONS};
use walgate::source::dsn::SystemEnvironment;
use walgate::source::sql::SqlSession;
use walgate::source::{Connector, Dsn};

/// What is recorded, and how.
struct Recording {
    name: &'static str,
    /// The first version that can do it.
    since: u32,
    schema: &'static str,
    workload: &'static str,
    /// Arguments of `walgate tail`.
    options: &'static [&'static str],
    /// The walsender's settings.
    settings: &'static str,
}

/// So little that every transaction of some length is streamed or spilled.
const LITTLE_MEMORY: &str = "-c logical_decoding_work_mem=64kB";

const fn recording(
    name: &'static str,
    since: u32,
    workload: &'static str,
    options: &'static [&'static str],
) -> Recording {
    Recording { name, since, schema: "schema", workload, options, settings: LITTLE_MEMORY }
}

const PROTOCOL: &[Recording] = &[
    recording("text", 14, "basic", &["--messages"]),
    recording("binary", 14, "basic", &["--messages", "--binary"]),
    // The forms of values are the same in all versions.
    recording("types_text", 18, "types", &[]),
    recording("types_binary", 18, "types", &["--binary"]),
    recording("identity", 14, "identity", &[]),
    recording("empty", 14, "empty", &["--messages"]),
    recording("origin", 14, "origin", &[]),
    recording("origin_none", 16, "origin", &["--origin", "none"]),
    Recording {
        schema: "filtered_schema",
        ..recording("filtered", 15, "filtered", &["--publication", "filtered", "--publication", "schemas"])
    },
    recording("generated", 18, "generated", &[]),
    recording("streaming", 14, "streaming", &["--messages", "--streaming", "on"]),
    recording("streaming_binary", 14, "streaming", &["--messages", "--streaming", "on", "--binary"]),
    recording("two_phase", 15, "two_phase", &["--two-phase"]),
    recording("two_phase_streaming", 15, "two_phase", &["--two-phase", "--streaming", "on"]),
    recording("parallel", 16, "streaming", &["--messages", "--streaming", "parallel"]),
    recording("two_phase_parallel", 16, "two_phase", &["--two-phase", "--streaming", "parallel"]),
    Recording {
        // Every change in a chunk of its own.
        settings: "-c debug_logical_replication_streaming=immediate",
        ..recording("immediate", 16, "basic", &["--messages", "--streaming", "parallel"])
    },
];

const BENCH: &[Recording] = &[
    bench("pgbench_text", "pgbench_schema", "pgbench", &[]),
    bench("pgbench_binary", "pgbench_schema", "pgbench", &["--binary"]),
    bench("wide_text", "wide_schema", "wide", &[]),
    bench("wide_binary", "wide_schema", "wide", &["--binary"]),
    bench("bulk_text", "bulk_schema", "bulk", &[]),
    bench("bulk_binary", "bulk_schema", "bulk", &["--binary"]),
];

const fn bench(
    name: &'static str,
    schema: &'static str,
    workload: &'static str,
    options: &'static [&'static str],
) -> Recording {
    Recording { name, since: 18, schema, workload, options, settings: "" }
}

fn main() -> ExitCode {
    // The program is its own walgate: `record-fixtures tail …` is `walgate tail …`.
    let arguments: Vec<_> = env::args_os().collect();
    if arguments.get(1).is_some_and(|command| command == "tail") {
        return walgate::cli::main(arguments);
    }
    match record(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("record-fixtures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn record(wanted: Vec<String>) -> Result<(), Box<dyn Error>> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures");
    for version in VERSIONS.into_iter().filter(|version| is_wanted(&version.to_string())) {
        let folder = folder.join(format!("pg{version}"));
        let server = Server::builder(scratch::obtain(version)?).start()?;
        for recording in PROTOCOL.iter().filter(|recording| recording.since <= version) {
            let decoded = File::create(empty(&folder)?.join(recording.name).with_extension("jsonl"))?;
            recording.run(&server, &folder, Stdio::from(decoded))?;
        }
    }
    if is_wanted("bench") {
        let server = Server::builder(scratch::obtain(18)?).start()?;
        for recording in BENCH {
            recording.run(&server, &folder.join("bench"), Stdio::null())?;
        }
    }
    Ok(())
}

fn empty(folder: &Path) -> std::io::Result<&Path> {
    fs::create_dir_all(folder).map(|()| folder)
}

impl Recording {
    fn run(&self, server: &Server, folder: &Path, decoded: Stdio) -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let admin = Sql::connect(&runtime, &server.dsn("postgres"))?;
        admin.run(&format!("CREATE DATABASE {}", self.database()))?;
        let dsn = server.dsn(&self.database());
        let sql = Sql::connect(&runtime, &dsn)?;
        sql.run_file(self.schema)?;

        let path = empty(folder)?.join(self.name).with_extension("bin");
        let publication: &[&str] = match self.schema {
            "schema" => &["--publication", "p"],
            "filtered_schema" => &[],
            _ => &["--publication", "bench"],
        };
        let mut tail = Command::new(env::current_exe()?)
            .arg("tail")
            .arg(format!("{dsn} options='{}'", self.settings))
            .args(publication)
            .args(self.options)
            .args(["--format", "json", "--raw"])
            .arg(&path)
            .env("WALGATE_LOG", "warn")
            .stdout(decoded)
            .spawn()?;
        let recorded = self.drive(&sql, &mut tail);
        if recorded.is_err() {
            // It may have ended by itself, and the error is the other one.
            let _ = tail.kill();
        } else {
            scratch::signal(i32::try_from(tail.id())?, Signal::Interrupt);
        }
        let status = tail.wait()?;
        recorded?;
        if !status.success() {
            return Err(format!("walgate tail ended with {status}").into());
        }
        println!("{} {}", fs::metadata(&path)?.len(), path.display());
        Ok(())
    }

    fn database(&self) -> String {
        format!("rec_{}", self.name)
    }

    /// Runs the workload and waits until all of it has been acknowledged.
    fn drive(&self, sql: &Sql<'_>, tail: &mut Child) -> Result<(), Box<dyn Error>> {
        let slot = format!("FROM pg_replication_slots WHERE database = '{}'", self.database());
        sql.until(&format!("SELECT active::text {slot}"), tail)?;
        sql.run_file(self.workload)?;
        let end = sql.value("SELECT pg_current_wal_flush_lsn()::text")?.ok_or("no position")?;
        sql.until(&format!("SELECT (confirmed_flush_lsn >= '{end}')::text {slot}"), tail)
    }
}

/// An SQL session in a program that is not asynchronous.
struct Sql<'a> {
    runtime: &'a Runtime,
    session: SqlSession,
}

impl Sql<'_> {
    fn connect<'a>(runtime: &'a Runtime, dsn: &str) -> Result<Sql<'a>, Box<dyn Error>> {
        let connector = Connector::new(Dsn::resolve(Some(dsn), &SystemEnvironment)?)?;
        Ok(Sql { runtime, session: runtime.block_on(connector.sql())? })
    }

    fn run(&self, statement: &str) -> Result<(), Box<dyn Error>> {
        let run = self.runtime.block_on(self.session.batch_execute(statement));
        run.map_err(|error| format!("{statement}: {error:?}").into())
    }

    /// Runs the paragraphs of a file, each by itself.
    fn run_file(&self, name: &str) -> Result<(), Box<dyn Error>> {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "proto-fixtures", "workload"].iter().collect();
        let text = fs::read_to_string(folder.join(name).with_extension("sql"))?;
        text.split("\n\n").try_for_each(|statement| self.run(statement))
    }

    fn value(&self, query: &str) -> Result<Option<String>, Box<dyn Error>> {
        let row = self.runtime.block_on(self.session.query_opt(query, &[]))?;
        Ok(row.and_then(|row| row.get(0)))
    }

    /// Waits until a query says true, as long as the tail runs.
    fn until(&self, query: &str, tail: &mut Child) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.value(query)?.as_deref() != Some("true") {
            if let Some(status) = tail.try_wait()? {
                return Err(format!("walgate tail ended with {status}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("waited in vain for {query}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
