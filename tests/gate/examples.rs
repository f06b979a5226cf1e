//! What `deploy/examples` ships: every file is taken by what it is for, as far as that can be had here, and every command in
//! it is run against a daemon.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use walgate::gate::Kind;

use crate::scene::{GATE, Gate, Pair, Way, dsn};
use crate::support::{Sql, tool};

/// The SQL that the head of an example grants walgate's role: its lines that are indented.
pub(crate) fn rights(example: &str) -> String {
    read(example).lines().filter_map(|line| line.strip_prefix("#   ")).collect::<Vec<_>>().join("\n")
}

fn place(example: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples").join(example)
}

fn read(example: &str) -> String {
    fs::read_to_string(place(example)).unwrap_or_else(|error| panic!("{example}: {error}"))
}

fn documents(example: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(example)).unwrap_or_else(|error| panic!("{example}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

#[test]
fn there_is_a_gate_of_every_kind_that_the_binary_takes() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    for secret in ["token", "receipt.key", "zero-admin-password"] {
        fs::write(directory.path().join(secret), "0123456789abcdef0123456789abcdef").expect("it can be written");
    }
    for kind in Kind::ALL {
        let text = read(&format!("{kind}.toml"));
        assert!(text.contains(&format!("kind = \"{kind}\"")), "{kind}: {text}");
        let file = directory.path().join("walgate.toml");
        fs::write(&file, text).expect("it can be written");
        let mut walgate = Command::new(env!("CARGO_BIN_EXE_walgate"));
        let output = walgate.args(["run", "--check-config", "-c"]).arg(&file).output().expect("walgate starts");
        assert!(output.status.success(), "{kind}: {output:?}");
    }
}

/// A gate named as in the examples, over a native subscription, with `psql` and `walgate` for scripts; nobody writes, so
/// `kubectl` has nothing to stop.
struct Scene {
    pair: Pair,
    gate: Gate,
    bin: tempfile::TempDir,
}

impl Scene {
    #[track_caller]
    fn start() -> Scene {
        let pair = Pair::start(18, 18);
        drop(pair.databases("app"));
        for server in [&pair.source, &pair.target] {
            let grants = rights("subscription.toml").replace("CREATE ROLE walgate LOGIN REPLICATION;", "");
            Sql::connect(&server.dsn("app")).run(&grants);
        }
        let target = format!("[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, "app"));
        let gate = Gate::start(&dsn(&pair.source, "app"), Way::Slot, &["green_sub"], &target);
        let green = Sql::connect(&pair.target.dsn("app"));
        green.run(&format!(
            "CREATE SUBSCRIPTION green_sub CONNECTION '{}' PUBLICATION everything",
            pair.source.dsn("app")
        ));
        green.until("SELECT count(*) FROM orders", "1");
        let bin = tempfile::tempdir().expect("a temporary directory can be made");
        let walgate = PathBuf::from(env!("CARGO_BIN_EXE_walgate"));
        for (name, program) in [("walgate", walgate), ("psql", tool("psql")), ("kubectl", PathBuf::from("/bin/true"))] {
            std::os::unix::fs::symlink(program, bin.path().join(name)).expect("it can be linked");
        }
        Scene { pair, gate, bin }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gate.walgate.http())
    }

    /// A program as the examples would run it, next to the daemon.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin.path().display())).current_dir(self.bin.path());
        command.env("WALGATE_URL", self.url()).env("WALGATE_TOKEN", "a token").stdin(Stdio::null());
        command.env("BLUE", self.pair.source.dsn("app")).env("GREEN", self.pair.target.dsn("app"));
        command
    }

    /// `cutover.sh` with these variables.
    #[track_caller]
    fn cut_over(&self, variables: &[(&str, &str)]) -> Output {
        let mut script = self.command(place("cutover.sh"));
        script.env("GATE", GATE).env("TIMEOUT", "30s").env("RESUME", "touch resumed");
        script.envs(variables.iter().copied());
        script.output().expect("the script starts")
    }

    fn stands(&self) -> bool {
        self.gate.send("GET", "/fence").0 == 200
    }

    /// Whether the script let the application write again, since this was last asked.
    fn resumed(&self) -> bool {
        fs::remove_file(self.bin.path().join("resumed")).is_ok()
    }
}

/// Commands in the containers of Jobs and Deployments: one after the other, as a Pod runs them.
#[track_caller]
fn run_containers(scene: &Scene, example: &str) {
    let documents = documents(example);
    let pod = &documents[0]["spec"]["template"]["spec"];
    let mut ran = 0;
    for container in list(&pod["initContainers"]).chain(list(&pod["containers"])) {
        if !text(&container["image"]).starts_with("walgate:") {
            continue;
        }
        // Where the daemon's file is mounted.
        let file = scene.gate.walgate.file().display().to_string();
        let arguments =
            list(&container["args"]).map(|argument| text(argument).replace("/etc/walgate/walgate.toml", &file));
        let output = scene.command("walgate").args(arguments).output().expect("walgate starts");
        assert_eq!(output.status.code(), Some(0), "{example}: {output:?}");
        ran += 1;
    }
    assert!(ran > 0, "{example}");
}

/// What an expression of Argo's says of an answer: a path, or a path and the text that it is to be.
fn holds(expression: &str, result: &Value) -> bool {
    let (path, expected) = match expression.split_once(" == ") {
        Some((path, expected)) => (path, serde_json::from_str(expected).expect("a literal")),
        None => (expression, Value::Bool(true)),
    };
    let names = path.strip_prefix("result.").expect("it is of the result").split('.');
    names.fold(result, |value, name| value.get(name).unwrap_or(&Value::Null)) == &expected
}

/// How an analysis of Argo's ends: successful, failed or inconclusive.
#[track_caller]
fn analyse(scene: &Scene, wait: &str) -> &'static str {
    let documents = documents("argo-rollouts.yaml");
    let metric = &documents[0]["spec"]["metrics"][0];
    let web = &metric["provider"]["web"];
    let mut url = text(&web["url"]).to_owned();
    for argument in list(&documents[0]["spec"]["args"]) {
        url =
            url.replace(&format!("{{{{args.{}}}}}", text(&argument["name"])), argument["value"].as_str().unwrap_or(""));
    }
    let url = url.replace("wait=5m", wait);
    let route = url.strip_prefix(&format!("http://walgate-gate:9632/v1/gates/{GATE}")).expect("it is of the gate");
    let (status, body) = scene.gate.send("GET", route);
    assert_eq!(status, 200, "Argo takes any other status for an error: {body}");
    match ["successCondition", "failureCondition"].map(|condition| holds(text(&metric[condition]), &body)) {
        [true, false] => "successful",
        [false, true] => "failed",
        [false, false] => "inconclusive",
        both => panic!("{both:?}"),
    }
}

/// What Flagger is told.
#[track_caller]
fn confirm(scene: &Scene) -> u16 {
    let documents = documents("flagger.yaml");
    let hook = &documents[0]["spec"]["analysis"]["webhooks"][0];
    assert_eq!(hook["type"], "confirm-promotion");
    let route =
        text(&hook["url"]).strip_prefix("http://walgate-gate:9632/v1/gates/blue-green").expect("it is of the gate");
    scene.gate.send("POST", &route.replace("wait=8s", "wait=1ms")).0
}

/// The steps of the workflow that run commands, by name.
fn workflow() -> Vec<(String, String)> {
    let documents = documents("github-actions.yml");
    let steps = list(&documents[0]["jobs"]["cutover"]["steps"]).filter(|step| step["run"].is_string());
    steps.map(|step| (text(&step["name"]).to_owned(), text(&step["run"]).to_owned())).collect()
}

#[test]
fn every_caller_goes_through_a_cutover() {
    let scene = Scene::start();
    scene.gate.until("preflight", "pass", "");
    assert_eq!((analyse(&scene, "wait=1ms"), confirm(&scene)), ("failed", 409));
    let [blue, green] = [&scene.pair.source, &scene.pair.target].map(|server| Sql::connect(&server.dsn("app")));
    blue.run("SELECT nextval('numbers') FROM generate_series(1, 3)");
    green.run("GRANT UPDATE ON ALL SEQUENCES IN SCHEMA public TO walgate");
    run_containers(&scene, "kubernetes-job.yaml");
    run_containers(&scene, "kubernetes-init-container.yaml");
    run_containers(&scene, "helm-hook.yaml");
    assert_eq!((analyse(&scene, "wait=30s"), confirm(&scene)), ("successful", 200));
    Sql::connect(&scene.pair.target.dsn("app")).run("ALTER SUBSCRIPTION green_sub DISABLE");
    scene.gate.release();
    Sql::connect(&scene.pair.source.dsn("app")).run("INSERT INTO orders VALUES (2, 'next')");
    scene.gate.fence();
    assert_eq!((analyse(&scene, "wait=1ms"), confirm(&scene)), ("failed", 409));
    Sql::connect(&scene.pair.target.dsn("app")).run("ALTER SUBSCRIPTION green_sub ENABLE");
    scene.gate.until("cutover", "pass", "");
    scene.gate.release();

    blue.run("SELECT nextval('numbers') FROM generate_series(1, 3)");
    drop((blue, green));
    for (name, run) in workflow() {
        let output = scene.command("bash").args(["-eo", "pipefail", "-c", &run]).output().expect("bash starts");
        assert!(output.status.success(), "{name}: {output:?}");
    }
    assert!(!scene.stands());
    let saved = |file: &str| fs::read_to_string(scene.bin.path().join(file)).expect("it was saved");
    let [verdict, receipt]: [Value; 2] =
        ["verdict.json", "receipt.json"].map(|file| serde_json::from_str(&saved(file)).expect("it is JSON"));
    assert_eq!(verdict["ok"], true);
    assert_eq!(receipt["nonce"], verdict["receipt"]["nonce"]);

    refuse(&scene);
    let sequences = "walgate gate sequences --source \"$BLUE\" --target \"$GREEN\" --apply --yes";
    let mut stop = "psql -Xqc 'SELECT nextval($$numbers$$) FROM generate_series(1, 5)' \"$BLUE\"".to_owned();
    stop.push_str(" && psql -Xqc 'UPDATE orders SET note = $$last$$' \"$BLUE\"");
    let switch = "psql -Xqc 'DROP SUBSCRIPTION green_sub' \"$GREEN\"";
    let output = scene.cut_over(&[("STOP", &stop), ("SEQUENCES", sequences), ("SWITCH", switch)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!scene.resumed() && scene.stands());
    let green = Sql::connect(&scene.pair.target.dsn("app"));
    assert_eq!(green.value("SELECT count(*) FROM orders WHERE note = 'last'"), "2");
    assert_eq!(green.value("SELECT nextval('numbers')"), "12");
}

/// Where the script must not switch, and puts everything back.
#[track_caller]
fn refuse(scene: &Scene) {
    let said = |output: &Output, status: i32, said: &str| {
        let text = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(status) && text.contains(said), "{status} {said}: {text}");
    };
    let switch = ("SWITCH", "touch switched");
    said(&scene.cut_over(&[switch]), 2, "GATE, STOP and SWITCH must be set");
    assert!(!scene.resumed());
    // Somebody still writes.
    let writer = Sql::connect(&scene.pair.source.dsn("app"));
    writer.run("BEGIN; INSERT INTO orders VALUES (100, 'late')");
    said(&scene.cut_over(&[switch, ("STOP", "true")]), 1, "idle in transaction");
    assert!(scene.resumed() && !scene.stands());
    writer.run("ROLLBACK");
    drop(writer);
    // The subscription is disabled at the worst moment.
    let green = Sql::connect(&scene.pair.target.dsn("app"));
    let disable = "psql -Xqc 'ALTER SUBSCRIPTION green_sub DISABLE' \"$GREEN\"";
    said(&scene.cut_over(&[switch, ("STOP", disable)]), 1, "green_sub is disabled");
    assert!(scene.resumed() && !scene.stands());
    green.run("ALTER SUBSCRIPTION green_sub ENABLE");
    assert!(!scene.bin.path().join("switched").exists());
    scene.gate.until("preflight", "pass", "");
    // Behind the switch nothing is undone.
    said(&scene.cut_over(&[("SWITCH", "false"), ("STOP", "true")]), 5, "may have been done in part");
    assert!(!scene.resumed() && scene.stands());
    scene.gate.release();
}

#[test]
fn every_route_and_parameter_in_the_examples_is_in_the_description() {
    let scene = Scene::start();
    let (status, description) = scene.gate.walgate.get("/openapi.json");
    assert_eq!(status, 200);
    let mut routes = BTreeSet::new();
    for entry in fs::read_dir(place("")).expect("the examples are there") {
        let path = entry.expect("it can be read").path();
        let whole = fs::read_to_string(&path).expect("it is a text");
        for url in whole.split("/v1/gates/").skip(1) {
            let url = url.split(['"', '\'', ' ', '\n']).next().unwrap_or_default();
            let (route, query) = url.split_once('?').unwrap_or((url, ""));
            let what = route.split_once('/').expect("a gate and what is asked of it").1;
            let described = &description["paths"][format!("/v1/gates/{{gate}}/{what}")];
            assert!(described.is_object(), "{}: {url}", path.display());
            routes.insert(what.to_owned());
            for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
                let name = parameter.split('=').next().unwrap_or_default();
                let known = list(&described["get"]["parameters"]).chain(list(&described["parameters"]));
                let mut names = known.map(|known| match known["$ref"].as_str() {
                    Some(reference) => &description.pointer(&reference[1..]).expect("it is there")["name"],
                    None => &known["name"],
                });
                assert!(names.any(|known| known == name), "{}: {name}", path.display());
            }
        }
    }
    assert_eq!(routes.into_iter().collect::<Vec<_>>(), ["check", "receipt"]);
}
