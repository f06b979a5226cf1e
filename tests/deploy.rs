//! What `deploy/` ships: that it parses, that it fits the binary, and that its parts fit each other. The alert rules have
//! tests of their own (`promtool test rules`, in `.ci/run`).

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::daemon::Walgate;
use support::{Sql, eventually, postgres};

/// The manifests of daemons.
const DAEMONS: [&str; 3] =
    ["deploy/kubernetes/zero-cache.yaml", "deploy/kubernetes/probe.yaml", "deploy/kubernetes/gate.yaml"];

/// What `walgate run` grants sessions after SIGTERM, in seconds.
const DRAIN: u64 = 25;

#[test]
fn metrics_are_as_prometheus_wants_them() {
    let server = postgres(18).setting("max_slot_wal_keep_size", "1GB").start().unwrap();
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE orders (id int PRIMARY KEY)");
    sql.run("CREATE PUBLICATION everything FOR ALL TABLES");
    let subscriber = postgres(18).start().unwrap();
    let target = Sql::connect(&subscriber.dsn("postgres"));
    target.run("CREATE TABLE orders (id int PRIMARY KEY)");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    let through = walgate.dsn("postgres", "postgres");
    target.run(&format!("CREATE SUBSCRIPTION orders CONNECTION '{through}' PUBLICATION everything"));
    sql.run("INSERT INTO orders SELECT generate_series(1, 100)");
    let text = eventually("acknowledged commits in the metrics", || match walgate.get("/metrics").1 {
        Value::String(text) if text.contains("walgate_ack_latency_seconds_count") && text.contains("_lag_rows{") => {
            Ok(text)
        }
        other => Err(other),
    });
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool starts: apt-get install prometheus");
    promtool.stdin.take().expect("it is piped").write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}\n{text}");
    target.run("DROP SUBSCRIPTION orders");
}

#[test]
fn every_alert_uses_metrics_that_the_daemon_describes_and_is_seen_firing() {
    let described = read("src/telemetry/metrics.rs");
    let rules = documents("deploy/prometheus/walgate.rules.yml");
    let mut alerts = BTreeSet::new();
    for rule in rules.iter().flat_map(|file| list(&file["groups"])).flat_map(|group| list(&group["rules"])) {
        let name = text(&rule["alert"]);
        assert!(alerts.insert(name), "{name} twice");
        let severity = text(&rule["labels"]["severity"]);
        assert!(["warning", "critical"].contains(&severity), "{name}: {severity}");
        for part in ["summary", "description"] {
            assert!(!text(&rule["annotations"][part]).is_empty(), "{name} has no {part}");
        }
        let words = text(&rule["expr"]).split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("walgate_")) {
            assert!(described.contains(&format!("\"{metric}\"")), "{name}: there is no {metric}");
        }
    }
    let tests = read("deploy/prometheus/walgate.rules.test.yml");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test sees {alert} fire");
    }
}

#[test]
fn the_image_runs_as_nobody_on_a_base_that_has_what_the_binary_links() {
    let dockerfile = read("deploy/docker/Dockerfile");
    let lines: Vec<Vec<&str>> = dockerfile
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| !words.is_empty())
        .collect();
    let all = |instruction: &str| -> Vec<&[&str]> {
        let found = lines.iter().filter(|words| words[0] == instruction);
        found.map(|words| &words[1..]).collect()
    };
    let [user] = all("USER")[..] else { panic!("{dockerfile}") };
    let ids: Vec<u32> = user[0].split(':').map(|id| id.parse().expect("a number")).collect();
    assert!(ids.len() == 2 && !ids.contains(&0), "{user:?}");
    for copy in all("COPY") {
        let (_, sources) = copy.split_last().unwrap();
        for source in sources.iter().filter(|_| !copy[0].starts_with("--from=")) {
            assert!(repository(source).exists(), "COPY {source}");
        }
    }
    // What it is linked on must not be newer than what it runs on; and what that has of libraries.
    let [build, runtime] = all("FROM")[..] else { panic!("{dockerfile}") };
    let toolchain = format!("rust:{}-slim-bookworm", env!("CARGO_PKG_RUST_VERSION"));
    assert_eq!((build[0], runtime[0]), (toolchain.as_str(), "gcr.io/distroless/cc-debian12"));
    let output = run(Command::new("ldd").arg(env!("CARGO_BIN_EXE_walgate")));
    let linked = String::from_utf8_lossy(&output.stdout).into_owned();
    let names =
        linked.split_whitespace().filter_map(|word| word.rsplit('/').next()).filter(|word| word.contains(".so"));
    for name in names {
        let known = ["linux-vdso.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"];
        assert!(known.contains(&name) || name.starts_with("ld-linux"), "the base image may not have {name}");
    }
}

#[test]
fn the_image_is_built_of_what_cargo_needs() {
    let context = tempfile::tempdir().unwrap();
    let ignored = read(".dockerignore");
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_start_matches("**/")).collect();
    for entry in fs::read_dir(repository("")).unwrap() {
        let entry = entry.unwrap();
        if !ignored.contains(&entry.file_name().to_string_lossy().as_ref()) {
            std::os::unix::fs::symlink(entry.path(), context.path().join(entry.file_name())).unwrap();
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    run(cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version=1"]).current_dir(&context));
}

#[test]
fn every_pod_is_hardened_and_its_probes_meet_a_port() {
    let mut pods = 0;
    for manifest in DAEMONS {
        let documents = documents(manifest);
        for document in documents.iter().filter(|document| document["spec"]["template"].is_object()) {
            pods += 1;
            let template = &document["spec"]["template"];
            let pod = &template["spec"];
            assert_eq!(document["spec"]["selector"]["matchLabels"], template["metadata"]["labels"], "{manifest}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{manifest}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{manifest}");
            assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(DRAIN), "{manifest}");
            let mut ports = BTreeSet::new();
            for container in containers(pod) {
                let name = text(&container["name"]);
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
                assert!(text(&container["image"]).contains(':') && !text(&container["image"]).ends_with(":latest"));
                let own: Vec<&str> = list(&container["ports"]).map(|port| text(&port["name"])).collect();
                ports.extend(own.iter().copied());
                for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    let get = &container[probe]["httpGet"];
                    assert!(get.is_null() || own.contains(&text(&get["port"])), "{name}: {probe} {get}");
                }
                assert!(
                    container["livenessProbe"]["httpGet"]["path"] != "/readyz",
                    "{name} is not to die of its source"
                );
            }
            for service in documents.iter().filter(|document| document["kind"] == "Service") {
                assert_eq!(service["spec"]["selector"], template["metadata"]["labels"], "{manifest}");
                for port in list(&service["spec"]["ports"]) {
                    assert!(ports.contains(text(&port["targetPort"])), "{manifest}: {port}");
                }
            }
        }
    }
    assert_eq!(pods, DAEMONS.len());
}

#[test]
fn daemons_are_configured_with_a_file_that_the_binary_takes() {
    for manifest in ["deploy/kubernetes/probe.yaml", "deploy/kubernetes/gate.yaml"] {
        let documents = documents(manifest);
        let pod = &documents[1]["spec"]["template"]["spec"];
        let directory = tempfile::tempdir().unwrap();
        let here = |text: &str| {
            let mounts = list(&pod["containers"][0]["volumeMounts"]).map(|mount| self::text(&mount["mountPath"]));
            mounts.fold(text.to_owned(), |text, mount| text.replace(mount, directory.path().to_str().unwrap()))
        };
        fs::write(directory.path().join("walgate.toml"), here(text(&documents[0]["data"]["walgate.toml"]))).unwrap();
        for item in list(&pod["volumes"]).flat_map(|volume| list(&volume["secret"]["items"])) {
            fs::write(directory.path().join(text(&item["path"])), "0123456789abcdef0123456789abcdef").unwrap();
        }
        let mut walgate = Command::new(env!("CARGO_BIN_EXE_walgate"));
        walgate.args(list(&pod["containers"][0]["args"]).map(|argument| here(text(argument)))).arg("--check-config");
        for variable in list(&pod["containers"][0]["env"]) {
            let name = text(&variable["name"]);
            walgate.env(name, format!("postgresql://walgate@{}.internal/app", name.to_lowercase()));
        }
        run(&mut walgate);
    }
}

#[test]
fn zero_cache_starts_behind_a_sidecar_that_the_binary_can_be() {
    let documents = documents("deploy/kubernetes/zero-cache.yaml");
    let pod = &documents[0]["spec"]["template"]["spec"];
    let [sidecar] = &pod["initContainers"].as_array().unwrap()[..] else { panic!("{pod}") };
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/readyz");
    let arguments: Vec<&str> = list(&sidecar["args"]).map(text).collect();
    let listen = arguments[arguments.iter().position(|argument| *argument == "--listen").unwrap() + 1];
    let environment = list(&pod["containers"][0]["env"]);
    let upstream: Vec<&Value> = environment.filter(|variable| variable["name"] == "ZERO_UPSTREAM_DB").collect();
    assert!(text(&upstream[0]["value"]).contains(&format!("@{listen}/")), "{upstream:?}");
    run(Command::new(env!("CARGO_BIN_EXE_walgate")).args(arguments).arg("--help"));
}

#[test]
fn the_page_of_deploy_makes_every_secret_that_the_manifests_want() {
    let page = read("deploy/README.md");
    let jobs = ["kubernetes-job", "kubernetes-init-container", "helm-hook"];
    let jobs = jobs.map(|name| format!("deploy/examples/{name}.yaml"));
    let manifests = DAEMONS.into_iter().chain(jobs.iter().map(|name| &**name)).map(documents);
    let manifests: Vec<Value> = manifests.flatten().collect();
    let pods = manifests.iter().map(|document| &document["spec"]["template"]["spec"]);
    let variables = pods.flat_map(containers).flat_map(|container| list(&container["env"]));
    let wanted: Vec<&Value> = variables.map(|variable| &variable["valueFrom"]["secretKeyRef"]).collect();
    assert!(wanted.iter().filter(|key| !key.is_null()).count() >= 10);
    for key in wanted.into_iter().filter(|key| !key.is_null()) {
        let (name, key) = (text(&key["name"]), text(&key["key"]));
        assert!(page.contains(&format!("kubectl create secret generic {name} ")), "{name}");
        assert!(page.contains(&format!("--from-literal={key}=")), "{name}/{key}");
    }
}

#[test]
fn the_unit_waits_for_the_drain_and_does_not_retry_a_bad_configuration() {
    let unit = read("deploy/systemd/walgate.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{key} is not in the unit"))
    };
    assert!(value("TimeoutStopSec").parse::<u64>().unwrap() > DRAIN);
    assert_eq!(value("RestartPreventExitStatus"), "64");
    assert_eq!(value("DynamicUser"), "yes");
    assert!(value("ExecStart").starts_with("/usr/local/bin/walgate run -c /etc/walgate/walgate.toml"));
    let drain = run(Command::new(env!("CARGO_BIN_EXE_walgate")).args(["run", "--help"]));
    let help = String::from_utf8_lossy(&drain.stdout).into_owned();
    assert!(help.contains(&format!("[default: {DRAIN}s]")), "{help}");
}

/// A file's place, from the top of the repository.
fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The containers of a Pod, those that start first included.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).chain(list(&pod["containers"]))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
