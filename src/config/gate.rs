//! The gates of the file: what each is about, and how its target is reached.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::Source;
use super::file::read_secret;
use super::values::{as_connector, as_duration, as_name, as_path, as_some, as_text, expand, parsed};
use crate::gate::{Kind, Limits, ReceiptKey, ReceiptKeyError, ReceiptTerms, Reverse, Terms};
use crate::ident::SlotName;
use crate::source::{Connector, Dsn, Secret};
use crate::units::Size;
use crate::webhook::Url;

/// The longest that consumers can be asked to settle: what the gate remembers of them.
const MAX_SETTLE: Duration = Duration::from_secs(30 * 60);

/// A gate.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What it is about.
    pub terms: Arc<Terms>,
    /// How its target is reached; `None` where that is no PostgreSQL server.
    pub target: Option<Connector>,
    /// Whether a fence may write a barrier message. Without it nothing is written.
    pub barrier: bool,
    /// Its receipts.
    pub receipt: ReceiptTerms,
    /// Where zero-cache tells how far its replica is.
    pub statz: Option<Statz>,
}

/// `/statz` of a zero-cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statz {
    /// Like `http://zero:4848/statz`.
    pub url: Url,
    /// zero-cache's admin password.
    pub password: Option<Secret>,
}

impl Gate {
    /// Whether that is the same gate, over the same servers and slots: what was proven of one holds for the other. Limits, what
    /// is accepted, and how it is proven to others may be changed.
    pub fn is_about_the_same(&self, other: &Gate) -> bool {
        let subject = |gate: &Gate| {
            let Terms { name, source, consumers, kind, reverse, .. } = &*gate.terms;
            let target = gate.target.as_ref().map(|target| target.dsn().clone());
            (name.clone(), source.clone(), consumers.clone(), *kind, reverse.clone(), target, gate.statz.clone())
        };
        subject(self) == subject(other)
    }
}

/// What is wrong with a gate.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    #[error("there is no source {name:?}; there is {known}")]
    NoSource { name: String, known: String },
    #[error("source {0:?} is passive, and a gate must ask it: leave passive out")]
    Passive(String),
    #[error("target: dsn is missing: a {0} is asked what it has")]
    NoTarget(Kind),
    #[error("target: a target of kind {0} is not asked by SQL: leave dsn out")]
    NeedlessTarget(Kind),
    #[error("the target is the source: both are {0}")]
    TargetIsSource(String),
    #[error("target: only a target of kind zero has statz_url and statz_password_file")]
    NoStatz,
    #[error("target: statz_password_file without statz_url is for nothing")]
    NoStatzUrl,
    #[error("reverse: a way back is for targets of kind subscription and pglogical")]
    NoWayBack,
    #[error("data: with a target of kind {0} there are no data that could be compared")]
    NoData(Kind),
    #[error("settle: at most 30min")]
    Settle,
    #[error("{key}: {error}")]
    File { key: &'static str, error: std::io::Error },
    #[error("receipt_key_file: {0}")]
    Key(#[from] ReceiptKeyError),
}

/// A gate: a source, its consumers and a target, and what must hold before a cutover.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct GateSection {
    /// Its name, in routes and metrics: letters, digits, ".", "_" and "-".
    #[serde(deserialize_with = "as_gate_name")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(super) name: Spanned<String>,
    /// The name of the source.
    #[serde(deserialize_with = "as_text")]
    pub(super) source: String,
    /// The slots of the consumers that must have everything, at least one.
    #[serde(deserialize_with = "as_slots")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    consumers: Vec<SlotName>,
    /// The most that may be pending before a cutover.
    #[serde(default, deserialize_with = "as_some")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    max_lag: Option<Size>,
    /// The most that a consumer may be behind before a cutover.
    #[serde(default, deserialize_with = "as_some_duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    max_age: Option<Duration>,
    /// For how long it must have been within both, at most 30min.
    #[serde(default, deserialize_with = "as_some_duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    settle: Option<Duration>,
    /// Evidence that is older does not count.
    #[serde(default, deserialize_with = "as_some_duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    max_staleness: Option<Duration>,
    /// A transaction that is open for longer stands in the way of a start.
    #[serde(default, deserialize_with = "as_some_duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    max_transaction_age: Option<Duration>,
    /// WAL that must be left before a slot is lost.
    #[serde(default, deserialize_with = "as_some")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    min_safe_wal: Option<Size>,
    /// What may be missing on the target: "schema.name" of tables and materialized views, or "large objects". Tables without a
    /// key are compared with data = true all the same, where both sides have them: they are carried over by hand.
    #[serde(default, deserialize_with = "as_texts")]
    accept_unreplicated: BTreeSet<String>,
    /// After a cutover the old source may be down: one that cannot be asked counts as silent.
    #[serde(default)]
    accept_stopped_source: bool,
    /// Whether a fence writes a barrier message to the source's WAL. Without it nothing is written.
    #[serde(default = "default_barrier")]
    barrier: bool,
    /// Whether a cutover wants the data of both sides compared.
    #[serde(default)]
    data: bool,
    /// For how long a pass counts.
    #[serde(default, deserialize_with = "as_some_duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    receipt_ttl: Option<Duration>,
    /// A file that holds the key which signs receipts, at least 16 bytes.
    #[serde(default, deserialize_with = "as_path")]
    receipt_key_file: Option<PathBuf>,
    /// The target.
    target: TargetSection,
    /// The way back.
    reverse: Option<ReverseSection>,
}

/// The target of a gate.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct TargetSection {
    /// What it is: "slot" (nothing is known of it but what it acknowledges), "zero", "subscription", "pglogical" or
    /// "standby".
    #[serde(deserialize_with = "parsed")]
    #[cfg_attr(test, schemars(with = "String"))]
    kind: Kind,
    /// walgate's own sessions with it, where it is a PostgreSQL server: a connection string of libpq's.
    #[serde(default, deserialize_with = "as_some_connector")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    dsn: Option<Connector>,
    /// Where zero-cache tells how far its replica is, like "http://zero:4848/statz".
    #[serde(default, deserialize_with = "as_some")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    statz_url: Option<Url>,
    /// A file that holds zero-cache's admin password.
    #[serde(default, deserialize_with = "as_path")]
    statz_password_file: Option<PathBuf>,
}

/// The way back of a gate: who carries the target's changes to the source after a cutover.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct ReverseSection {
    /// The slots on the target that the source reads, at least one.
    #[serde(deserialize_with = "as_slots")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    consumers: Vec<SlotName>,
}

impl GateSection {
    /// The gate that it describes, with the files that it names read; their paths are relative to `base`.
    ///
    /// # Errors
    /// If it contradicts itself or its source, or a file cannot be used.
    pub(super) fn check(self, sources: &[Source], base: &Path) -> Result<Gate, GateError> {
        let source = sources.iter().find(|source| source.name == self.source).ok_or_else(|| {
            let known = sources.iter().map(|source| &*source.name).collect::<Vec<_>>().join(", ");
            GateError::NoSource { name: self.source.clone(), known }
        })?;
        if source.passive {
            return Err(GateError::Passive(self.source));
        }
        let TargetSection { kind, dsn: target, statz_url, statz_password_file } = self.target;
        match &target {
            None if kind.is_server() => return Err(GateError::NoTarget(kind)),
            Some(_) if !kind.is_server() => return Err(GateError::NeedlessTarget(kind)),
            Some(target) if is_same(target.dsn(), source.connector.dsn()) => {
                return Err(GateError::TargetIsSource(target.dsn().to_string()));
            }
            _ => {}
        }
        if self.data && !kind.is_server() {
            return Err(GateError::NoData(kind));
        }
        if self.reverse.is_some() && !kind.is_database() {
            return Err(GateError::NoWayBack);
        }
        let password = match &statz_password_file {
            _ if kind != Kind::Zero && (statz_url.is_some() || statz_password_file.is_some()) => {
                return Err(GateError::NoStatz);
            }
            Some(_) if statz_url.is_none() => return Err(GateError::NoStatzUrl),
            Some(file) => Some(
                read_secret(&base.join(file))
                    .map_err(|error| GateError::File { key: "target.statz_password_file", error })?,
            ),
            None => None,
        };
        let statz = statz_url.map(|url| Statz { url, password });
        let key = match &self.receipt_key_file {
            Some(file) => {
                let text = read_secret(&base.join(file));
                let text = text.map_err(|error| GateError::File { key: "receipt_key_file", error })?;
                Some(ReceiptKey::new(text.expose().as_bytes())?)
            }
            None => None,
        };
        let usual = Limits::default();
        let limits = Limits {
            lag: self.max_lag.unwrap_or(usual.lag),
            age: self.max_age.unwrap_or(usual.age),
            settle: self.settle.unwrap_or(usual.settle),
            staleness: self.max_staleness.unwrap_or(usual.staleness),
            transaction: self.max_transaction_age.unwrap_or(usual.transaction),
            headroom: self.min_safe_wal.unwrap_or(usual.headroom),
        };
        if limits.settle > MAX_SETTLE {
            return Err(GateError::Settle);
        }
        let terms = Terms {
            name: self.name.into_inner(),
            source: self.source,
            consumers: self.consumers,
            kind,
            limits,
            accept_unreplicated: self.accept_unreplicated,
            accept_stopped_source: self.accept_stopped_source,
            data: self.data,
            asks_replica: statz.is_some(),
            reverse: self.reverse.map(|reverse| Reverse { consumers: reverse.consumers }),
        };
        let receipt = ReceiptTerms { ttl: self.receipt_ttl.unwrap_or(ReceiptTerms::default().ttl), key };
        Ok(Gate { terms: Arc::new(terms), target, barrier: self.barrier, receipt, statz })
    }
}

/// Whether both name one database of one server. That two names are of one address only the servers can tell.
fn is_same(target: &Dsn, source: &Dsn) -> bool {
    let places = |dsn: &Dsn| dsn.hosts().iter().map(|host| (host.target.clone(), host.port)).collect::<Vec<_>>();
    let (target_places, source_places) = (places(target), places(source));
    target.login_database() == source.login_database()
        && target_places.iter().any(|place| source_places.contains(place))
}

fn default_barrier() -> bool {
    true
}

fn as_some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    as_duration(deserializer).map(Some)
}

fn as_some_connector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Connector>, D::Error> {
    as_connector(deserializer).map(Some)
}

fn as_texts<'de, D: Deserializer<'de>, C: FromIterator<String>>(deserializer: D) -> Result<C, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| expand(text)).collect::<Result<_, _>>().map_err(de::Error::custom)
}

fn as_slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SlotName>, D::Error> {
    let mut slots = Vec::new();
    for text in as_texts::<D, Vec<String>>(deserializer)? {
        let slot: SlotName = text.parse().map_err(|error| de::Error::custom(format!("{text:?} is {error}")))?;
        if slots.contains(&slot) {
            return Err(de::Error::custom(format!("{slot} is there twice")));
        }
        slots.push(slot);
    }
    if slots.is_empty() { Err(de::Error::custom("expected the name of at least one slot")) } else { Ok(slots) }
}

/// What can be a segment of a URL as it is.
fn as_gate_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spanned<String>, D::Error> {
    let name = as_name(deserializer)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let text = name.get_ref();
    if text.len() <= 63 && text.bytes().all(is_allowed) && text.starts_with(|first: char| first.is_ascii_alphanumeric())
    {
        Ok(name)
    } else {
        Err(de::Error::custom("expected up to 63 letters, digits, \".\", \"_\" and \"-\", a letter or digit first"))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::file::tests::read_text;
    use crate::lag::Observe;

    #[test]
    fn a_mistake_in_a_gate_is_named_with_its_line_and_key() {
        let source = "[[source]]\nname = \"blue\"\ndsn = \"host=b port=1 dbname=app user=u\"\n[[gate]]\nname = \"g\"\n";
        let about = format!("{source}source = \"blue\"\nconsumers = [\"s\"]\n");
        let target = |kind: &str, more: &str| format!("{about}target = {{ kind = \"{kind}\"{more} }}\n");
        let (slot, dsn) = (target("slot", ""), ", dsn = \"host=g port=1 dbname=app user=u\"");
        for (text, expected) in [
            (&about, "4: \"target\" is missing"),
            (&format!("{about}max_lag = \"16\""), "8: max_lag: expected a size like 16MB"),
            (&format!("{about}max_age = \"0s\""), "8: max_age: must be more than 0s"),
            (&format!("{about}max_lags = \"1MB\""), r#"8: unknown key "max_lags"; did you mean "max_lag"?"#),
            (&format!("{slot}settle = \"1h\""), "4: gate \"g\": settle: at most 30min"),
            (&slot.replace("\"s\"", ""), "7: consumers: expected the name of at least one slot"),
            (&slot.replace("\"s\"", "\"s\", \"s\""), "7: consumers: s is there twice"),
            (&slot.replace("\"s\"", "\"S\""), "7: consumers: \"S\" is not a slot name"),
            (
                &slot.replace("\"blue\"\ncons", "\"bleu\"\ncons"),
                "4: gate \"g\": there is no source \"bleu\"; there is blue",
            ),
            (&slot.replace("\"g\"", "\"a/b\""), "5: name: expected up to 63 letters, digits"),
            (&slot.replace("\"g\"", "\"..\""), "5: name: expected up to 63 letters, digits"),
            (
                &slot.replace("[[gate]]", "passive = true\nlisten = \"h:1\"\n[[gate]]"),
                "6: gate \"g\": source \"blue\" is passive",
            ),
            (
                &format!(
                    "{slot}[[gate]]\nname = \"g\"\nsource = \"blue\"\nconsumers = [\"s\"]\ntarget = {{ kind = \"slot\" }}"
                ),
                "10: name: there are two gates named \"g\"",
            ),
            (&target("slots", ""), "8: target: expected slot, zero, subscription, pglogical or standby"),
            (&target("slot", ", dns = \"\""), r#"8: unknown key "dns"; did you mean "dsn"?"#),
            (&target("slot", dsn), "4: gate \"g\": target: a target of kind slot is not asked by SQL"),
            (&target("standby", ""), "4: gate \"g\": target: dsn is missing: a standby is asked what it has"),
            (
                &target("subscription", &dsn.replace("=g", "=b")),
                "4: gate \"g\": the target is the source: both are postgresql://u@b:1/app",
            ),
            (&target("subscription", &dsn.replace("=g", "=c,b")), "4: gate \"g\": the target is the source"),
            (
                &target("slot", ", statz_url = \"http://z/statz\""),
                "4: gate \"g\": target: only a target of kind zero has statz_url",
            ),
            (
                &target("zero", ", statz_password_file = \"f\""),
                "4: gate \"g\": target: statz_password_file without statz_url",
            ),
            (
                &target("zero", ", statz_url = \"http://z\", statz_password_file = \"f\""),
                "4: gate \"g\": target.statz_password_file: ",
            ),
            (&format!("{slot}receipt_key_file = \"no/such\""), "4: gate \"g\": receipt_key_file: "),
            (&format!("{slot}data = true"), "4: gate \"g\": data: with a target of kind slot there are no data"),
            (
                &format!("{slot}reverse = {{ consumers = [\"back\"] }}"),
                "4: gate \"g\": reverse: a way back is for targets of kind subscription",
            ),
        ] {
            let error = read_text(text).expect_err(text);
            let expected = format!("walgate.toml:{expected}");
            assert!(error.starts_with(&expected), "{text}\n gives    {error}\n expected {expected}");
        }
        for other in ["host=b port=1 dbname=other", "host=b port=2 dbname=app", "host=c port=1 dbname=app"] {
            let config = read_text(&target("subscription", &format!(", dsn = \"{other} user=u\""))).unwrap();
            assert!(config.gates[0].target.is_some());
        }
    }

    #[test]
    fn somebody_decodes_what_a_gate_is_asked_about() {
        let text = |more: &str, gated: &str| {
            format!(
                "[[source]]\nname = \"a\"\ndsn = \"host=a user=u\"\n{more}\n[[source]]\nname = \"b\"\ndsn = \"host=b user=u\"\n\
                 [[gate]]\nname = \"g\"\nsource = \"{gated}\"\nconsumers = [\"s\"]\ntarget.kind = \"slot\"\n"
            )
        };
        for (more, gated, observe) in [
            ("", "a", Observe::Slot),
            ("", "b", Observe::Proxy),
            ("listen = \"127.0.0.1:6432\"", "a", Observe::Proxy),
            ("observe = \"poll\"", "a", Observe::Poll),
        ] {
            let config = read_text(&text(more, gated)).unwrap();
            assert_eq!(config.sources[0].observe, observe, "{more} {gated}");
        }
    }
}
