//! The file: TOML, of which every key is known.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::gate::GateSection;
use super::values::{
    as_connector, as_duration, as_listen, as_name, as_path, as_rule_sets, as_sessions, as_some, parsed,
};
use super::{Config, Console, Http, HttpAddr, Source, certificate};
use crate::identity::RuleSet;
use crate::lag::Observe;
use crate::proxy::{self, Guard, Limits, ListenAddr};
use crate::source::{Connector, Secret};
use crate::webhook::Url;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub struct FileError {
    file: PathBuf,
    /// Counted from 1.
    line: Option<usize>,
    problem: String,
}

impl Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

/// The configuration of the daemon.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "walgate.toml"))]
#[serde(deny_unknown_fields)]
struct File {
    /// The HTTP interface.
    #[serde(default)]
    http: HttpSection,
    /// The SQL console, on every source's listener.
    #[serde(default)]
    console: ConsoleSection,
    /// Who is told of findings that come and go.
    webhook: Option<WebhookSection>,
    /// How long sessions may take to end after SIGTERM, or when their source goes.
    #[serde(default = "default_drain_timeout", deserialize_with = "as_duration")]
    #[cfg_attr(test, schemars(with = "String"))]
    drain_timeout: Duration,
    /// The sources, at least one.
    #[cfg_attr(test, schemars(with = "Vec<SourceSection>"))]
    source: Vec<Spanned<SourceSection>>,
    /// The gates.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<GateSection>"))]
    gate: Vec<Spanned<GateSection>>,
}

/// The HTTP interface.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct HttpSection {
    /// Where it listens: address:port, or "off".
    #[serde(deserialize_with = "parsed")]
    #[cfg_attr(test, schemars(with = "String"))]
    listen: HttpAddr,
    /// A file that holds the token which /v1 routes want as "Authorization: Bearer".
    #[serde(deserialize_with = "as_path")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    token_file: Option<PathBuf>,
    /// The certificate chain for HTTPS, in PEM.
    #[serde(deserialize_with = "as_path")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(deserialize_with = "as_path")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    tls_key: Option<PathBuf>,
}

/// The SQL console: psql -h … -p … walgate.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct ConsoleSection {
    /// The database name that asks for it, or "off".
    #[serde(deserialize_with = "parsed")]
    #[cfg_attr(test, schemars(with = "String"))]
    database: String,
    /// Who may ask: users with SCRAM verifiers, in the format of PgBouncer's auth_file. Without it, clients on this
    /// machine.
    #[serde(deserialize_with = "as_path")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    auth_file: Option<PathBuf>,
}

impl Default for ConsoleSection {
    fn default() -> ConsoleSection {
        ConsoleSection { database: Console::DATABASE.into(), auth_file: None }
    }
}

/// Who is told of findings that come and go.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct WebhookSection {
    /// Where they are posted as JSON, like "https://hooks.slack.com/services/…".
    #[serde(deserialize_with = "parsed")]
    #[cfg_attr(test, schemars(with = "String"))]
    url: Url,
}

/// A source: one database whose changes are replicated.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct SourceSection {
    /// Its name, in metrics and answers.
    #[serde(deserialize_with = "as_name")]
    #[cfg_attr(test, schemars(with = "String"))]
    name: Spanned<String>,
    /// walgate's own sessions: a connection string of libpq's, or host:port where passive is true.
    #[serde(deserialize_with = "as_connector")]
    #[cfg_attr(test, schemars(with = "String"))]
    dsn: Connector,
    /// Where clients connect: host:port, or the path of a Unix-domain socket named .s.PGSQL.<port>. Without it there is
    /// no proxy.
    #[serde(default, deserialize_with = "as_listen")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    listen: Option<Spanned<ListenAddr>>,
    /// How its consumers are observed at best: by what passes the proxy, also by copies of slots, or by positions only.
    /// Without it "proxy", but "slot" where a gate names a source that has no listen.
    #[serde(default, deserialize_with = "as_some")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    observe: Option<Observe>,
    /// Open no connections but those of clients, and add nothing to any stream.
    #[serde(default)]
    passive: bool,
    /// What is done when a consumer begins while a table would break it: "off" nothing, "warn" a line in the log,
    /// "block" refuses it.
    #[serde(default, deserialize_with = "parsed")]
    #[cfg_attr(test, schemars(with = "String"))]
    guard: Guard,
    /// Whose rules tables must keep, besides PostgreSQL's own: "zero", "pglogical".
    #[serde(default, rename = "for", deserialize_with = "as_rule_sets")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    rule_sets: BTreeSet<RuleSet>,
    /// The certificate chain that clients are shown, in PEM.
    #[serde(default, deserialize_with = "as_path")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(default, deserialize_with = "as_path")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    tls_key: Option<PathBuf>,
    /// Clients at the same time; more are refused with SQLSTATE 53300.
    #[serde(default = "default_max_sessions", deserialize_with = "as_sessions")]
    #[cfg_attr(test, schemars(range(min = 1)))]
    max_sessions: usize,
    /// The age at which evidence no longer counts.
    #[serde(default = "default_stale_after", deserialize_with = "as_duration")]
    #[cfg_attr(test, schemars(with = "String"))]
    stale_after: Duration,
}

fn default_drain_timeout() -> Duration {
    super::DRAIN_TIMEOUT
}

fn default_stale_after() -> Duration {
    super::STALE_AFTER
}

fn default_max_sessions() -> usize {
    Limits::default().sessions
}

/// Reads a file and all files that it names.
///
/// # Errors
/// With the line, where the problem has one, and never with a password.
pub fn read(path: &Path) -> Result<Config, FileError> {
    let failed = |line, problem: String| FileError { file: path.to_owned(), line, problem };
    let text = fs::read_to_string(path).map_err(|error| failed(None, error.to_string()))?;
    let at = |span: Range<usize>| text.get(..span.start).map(|before| before.matches('\n').count() + 1);
    let file: File =
        toml::from_str(&text).map_err(|error| failed(error.span().and_then(at), describe(&error, &text)))?;
    let base = path.parent().unwrap_or(Path::new("."));
    let here = |path: &PathBuf| base.join(path);

    let http = match file.http.listen {
        HttpAddr::Off => None,
        HttpAddr::At(listen) => {
            let token = file.http.token_file.as_ref().map(|path| read_secret(&here(path))).transpose();
            let token = token.map_err(|error| failed(None, format!("http.token_file: {error}")))?;
            let files = (file.http.tls_cert.as_ref().map(here), file.http.tls_key.as_ref().map(here));
            let tls = certificate(files.0.as_deref(), files.1.as_deref(), b"http/1.1");
            Some(Http { listen, token, tls: tls.map_err(|error| failed(None, format!("[http]: {error}")))? })
        }
    };
    if file.source.is_empty() {
        return Err(failed(None, "there is no [[source]]".into()));
    }
    let gated: HashSet<String> = file.gate.iter().map(|section| section.as_ref().source.clone()).collect();
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    let mut sources = Vec::new();
    for section in file.source {
        let line = at(section.span());
        let section = section.into_inner();
        if !names.insert(section.name.as_ref().clone()) {
            let problem = format!("name: there are two sources named {:?}", section.name.as_ref());
            return Err(failed(at(section.name.span()), problem));
        }
        if let Some(listen) = &section.listen {
            let address = listen.as_ref().to_string();
            let taken = if http.as_ref().is_some_and(|http| http.listen.to_string() == address) {
                Some("where HTTP is answered")
            } else {
                addresses.contains(&address).then_some("another source's already")
            };
            if let Some(whose) = taken {
                return Err(failed(at(listen.span()), format!("listen: {address} is {whose}")));
            }
            addresses.insert(address);
        }
        let name = section.name.into_inner();
        let files = (section.tls_cert.as_ref().map(here), section.tls_key.as_ref().map(here));
        let is_gated = section.listen.is_none() && !section.passive && gated.contains(&name);
        let checked = certificate(files.0.as_deref(), files.1.as_deref(), proxy::ALPN).and_then(|tls| {
            let limits = Limits { sessions: section.max_sessions, ..Limits::default() };
            let source = Source {
                name: name.clone(),
                connector: section.dsn,
                listen: section.listen.map(Spanned::into_inner),
                // What a gate is asked about must be decoded by somebody.
                observe: section.observe.unwrap_or(if is_gated { Observe::Slot } else { Observe::default() }),
                passive: section.passive,
                guard: section.guard,
                rule_sets: section.rule_sets,
                tls,
                limits,
                stale_after: section.stale_after,
            };
            source.check()
        });
        sources.push(checked.map_err(|error| failed(line, format!("source {name:?}: {error}")))?);
    }
    let (mut names, mut gates) = (HashSet::new(), Vec::new());
    for section in file.gate {
        let line = at(section.span());
        let section = section.into_inner();
        let name = section.name.as_ref().clone();
        if !names.insert(name.clone()) {
            return Err(failed(at(section.name.span()), format!("name: there are two gates named {name:?}")));
        }
        let checked = section.check(&sources, base);
        gates.push(checked.map_err(|error| failed(line, format!("gate {name:?}: {error}")))?);
    }
    let console = Console::new(file.console.database, file.console.auth_file.as_ref().map(here));
    let console = console.map_err(|error| failed(None, format!("console.auth_file: {error}")))?;
    let webhook = file.webhook.map(|webhook| webhook.url);
    Ok(Config { http, console, webhook, drain_timeout: file.drain_timeout, sources, gates })
}

/// Reads a secret from a file of its own, without white space around it.
///
/// # Errors
/// If it cannot be read, or is empty.
pub fn read_secret(path: &Path) -> io::Result<Secret> {
    let text = fs::read_to_string(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    match text.trim() {
        "" => Err(io::Error::other(format!("{}: is empty", path.display()))),
        token => Ok(Secret::new(token)),
    }
}

/// Says which key is wrong, and which was probably meant. Of an unknown key serde tells the known ones in its message.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, [unknown, known @ ..]) = (message.starts_with("unknown field"), &quoted[..]) {
        return match nearest(unknown, known) {
            Some(meant) => format!("unknown key {unknown:?}; did you mean {meant:?}?"),
            None => format!("unknown key {unknown:?}; there are {}", known.join(", ")),
        };
    }
    if let (true, [missing]) = (message.starts_with("missing field"), &quoted[..]) {
        return format!("{missing:?} is missing");
    }
    let line = error.span().and_then(|span| {
        let start = text.get(..span.start)?.rfind('\n').map_or(0, |before| before + 1);
        text.get(start..span.end.max(span.start + 1))?.lines().next()
    });
    let key = line.and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    // What looks like a key in the middle of a string may be a secret.
    match key.filter(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')) {
        Some(key) => format!("{key}: {message}"),
        None => message,
    }
}

/// The known key that the fewest typing mistakes lead to, if they are few enough.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|known| (strsim::osa_distance(unknown, known), *known));
    let (mistakes, nearest) = distances.min()?;
    (mistakes <= 1 + unknown.len() / 4).then_some(nearest)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use schemars::schema_for;
    use serde_json::Value;

    use super::*;

    const EXAMPLE: &str = include_str!("../../deploy/walgate.example.toml");

    pub(in super::super) fn read_text(text: &str) -> Result<Config, String> {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_owned();
        read(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "walgate.toml"))
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_key() {
        let source = "[[source]]\nname = \"a\"\ndsn = \"host=a user=u\"\n";
        for (text, expected) in [
            ("[htp]", r#"1: unknown key "htp"; did you mean "http"?"#),
            (&format!("{source}lisen = \"x\""), r#"4: unknown key "lisen"; did you mean "listen"?"#),
            ("[http]\n\nzzz = 1", r#"3: unknown key "zzz"; there are listen, token_file, tls_cert, tls_key"#),
            (&format!("{source}listen = \"6432\""), "4: listen: expected host:port, like 127.0.0.1:6432, or the"),
            (&format!("{source}stale_after = \"5\""), "4: stale_after: time unit needed"),
            (&format!("{source}stale_after = 5"), "4: stale_after: invalid type: integer `5`, expected a string"),
            (&format!("{source}observe = \"prox\""), "4: observe: expected proxy, slot or poll"),
            (&format!("{source}max_sessions = 0"), "4: max_sessions: expected a number from 1 on"),
            (&format!("{source}passive = true"), "1: source \"a\": passive without listen leaves nothing to do"),
            (&format!("{source}guard = \"deny\""), "4: guard: expected off, warn or block"),
            (&format!("{source}guard = \"block\""), "1: source \"a\": guard = \"block\" without listen guards nothing"),
            (
                &format!("{source}guard = \"block\"\nlisten = \"h:1\"\npassive = true"),
                "1: source \"a\": guard = \"block\" must read the catalog, for which passive allows no connection",
            ),
            (&format!("{source}for = [\"zeor\"]"), "4: for: expected zero or pglogical"),
            (&format!("{source}for = \"zero\""), "4: for: invalid type: string \"zero\", expected a sequence"),
            (&format!("{source}tls_cert = \"x\""), "1: source \"a\": tls_cert and tls_key belong together"),
            (&format!("{source}\n{source}"), "6: name: there are two sources named \"a\""),
            ("[[source]]\nname = \"a\"\ndsn = \"\"", "3: dsn: is empty"),
            (&format!("{source}listen = \"127.0.0.1:9632\""), "4: listen: 127.0.0.1:9632 is where HTTP is answered"),
            ("[[source]]\nname = \"a\"", "1: \"dsn\" is missing"),
            ("[[source]]\nname = \"\"\ndsn = \"host=a\"", "2: name: is empty"),
            ("[[source]]\nname = \"a\"\ndsn = \"host=a hots=b\"", "3: dsn: "),
            ("[[source]]\nname = \"a\"\ndsn = \"${NO_SUCH_VARIABLE}\"", "3: dsn: ${NO_SUCH_VARIABLE} is not set"),
            ("[[source]]\nname = \"$a\"\ndsn = \"host=a\"", "2: name: a $ begins a variable"),
            ("[[source]\nname = 1", "1: "),
            ("source = []", " there is no [[source]]"),
            (
                "[webhook]\nurl = \"hooks.slack.com/hunter2\"",
                "2: url: expected a URL that begins with https:// or http://",
            ),
            ("[webhook]\nulr = \"hunter2\"", r#"2: unknown key "ulr"; did you mean "url"?"#),
            ("[http]\nlisten = \"nowhere\"", "2: listen: expected address:port"),
            ("[http]\ntoken_file = \"no/such\"\n[[source]]\nname=\"a\"\ndsn=\"host=a\"", " http.token_file: "),
        ] {
            let error = read_text(text).expect_err(text);
            let expected = format!("walgate.toml:{expected}");
            assert!(error.starts_with(&expected), "{text:?}\n gives    {error}\n expected {expected}");
        }
    }

    #[test]
    fn a_password_is_in_no_error() {
        for dsn in ["postgresql://u:hunter2@h:x/d", "password=hunter2 hots=a", "postgresql://u:hunter2@h/d?sslmod=1"] {
            let error = read_text(&format!("[[source]]\nname = \"a\"\ndsn = \"{dsn}\"")).unwrap_err();
            assert!(error.starts_with("walgate.toml:3: dsn: ") && !error.contains("hunter2"), "{error}");
        }
        let error = read_text("[[source]]\ndsn = \"\"\"\npostgresql://u:hunter2@h/d?sslmode=\\q\"\"\"").unwrap_err();
        assert!(error.starts_with("walgate.toml:3: ") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn variables_of_the_environment_are_expanded() {
        let name = std::env::var("CARGO_PKG_NAME").unwrap();
        let text = "[[source]]\nname = \"${CARGO_PKG_NAME}-$$1\"\ndsn = \"host=${CARGO_PKG_NAME} user=u\"";
        let config = read_text(text).unwrap();
        assert_eq!(config.sources[0].name, format!("{name}-$1"));
        assert_eq!(config.sources[0].connector.dsn().hosts()[0].to_string(), format!("{name}:5432"));
    }

    /// The example as it is, and with its commented keys.
    #[test]
    fn the_example_has_every_key_and_the_defaults() {
        let config = read_text(&EXAMPLE.replace("sslmode=verify-full", "sslmode=require")).unwrap();
        let minimal = read_text(
            "[[source]]\nname = \"blue\"\ndsn = \"host=b\"\nlisten = \"127.0.0.1:6432\"\n[[gate]]\nname = \"blue-green\"\n\
             source = \"blue\"\nconsumers = [\"green_sub\"]\n[gate.target]\nkind = \"subscription\"\ndsn = \"host=g\"",
        )
        .unwrap();
        let comparable = |config: Config| {
            let Config { http, console, webhook, drain_timeout, sources, gates } = config;
            let Source { name, listen, observe, passive, guard, rule_sets, limits, stale_after, .. } =
                sources[0].clone();
            let http = http.map(|http| (http.listen, http.token.is_none(), http.tls.is_none()));
            let gates: Vec<_> =
                gates.iter().map(|gate| (&gate.terms, gate.barrier, &gate.receipt, &gate.statz)).collect();
            format!(
                "{http:?} {console:?} {webhook:?} {drain_timeout:?} {name} {listen:?} {observe:?} {passive} {guard:?} {rule_sets:?} \
                 {limits:?} {stale_after:?} {gates:?}"
            )
        };
        assert_eq!(comparable(config), comparable(minimal));

        let schema = serde_json::to_value(schema_for!(File)).unwrap();
        let sections = [
            "HttpSection",
            "ConsoleSection",
            "WebhookSection",
            "SourceSection",
            "GateSection",
            "TargetSection",
            "ReverseSection",
        ]
        .map(|name| &schema["$defs"][name]);
        for properties in [&schema].into_iter().chain(sections).map(|section| &section["properties"]) {
            for key in properties.as_object().unwrap().keys() {
                let given = EXAMPLE.lines().map(|line| line.trim_start_matches("# "));
                let is = |line: &str| {
                    line.starts_with(&format!("{key} = "))
                        || line.trim_matches(['[', ']']).trim_start_matches("gate.") == key
                };
                assert!(given.clone().any(is), "{key} is not in the example");
            }
        }
    }

    /// `WALGATE_WRITE_SCHEMA=1 cargo test --lib schema` writes it.
    #[test]
    fn the_schema_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/walgate.schema.json");
        let schema: Value = serde_json::to_value(schema_for!(File)).unwrap();
        let text = format!("{schema:#}\n");
        if std::env::var_os("WALGATE_WRITE_SCHEMA").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "see above this test");
    }
}
