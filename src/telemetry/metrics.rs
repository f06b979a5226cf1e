//! The metrics of DESIGN, recorded and rendered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};
use metrics::{Unit, with_local_recorder};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::gate::Status;
use crate::identity::Severity;
use crate::keeper::Keeper;
use crate::lag::{ConsumerReport, SourceLag, State, Untapped};
use crate::source::Source;

/// Tables per source that have a label of their own; the rest is summed as `other`.
const TABLE_LABELS: usize = 200;

/// The process's recorder.
#[derive(Clone, Debug)]
pub struct Metrics {
    recorded: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder for the whole process.
    ///
    /// # Errors
    /// If another one is installed.
    pub fn install() -> Result<Metrics, BuildError> {
        let recorded = PrometheusBuilder::new().install_recorder()?;
        describe_counter!("walgate_proxy_bytes_total", Unit::Bytes, "Bytes relayed, by direction.");
        describe_counter!("walgate_proxy_messages_total", "Messages of replication streams, by type.");
        describe_counter!("walgate_proxy_untapped_total", "Streams that were relayed but could not be followed.");
        describe_counter!("walgate_guard_total", "Commands that begin replication, where the guard had a say.");
        describe_counter!("walgate_errors_total", "Errors, by kind.");
        Ok(Metrics { recorded })
    }

    /// Everything in Prometheus' text format.
    pub fn render<'a>(
        &self,
        sources: impl IntoIterator<Item = &'a Source>,
        gates: impl IntoIterator<Item = &'a Keeper>,
        now: Instant,
    ) -> String {
        let view = PrometheusBuilder::new().build_recorder();
        let mut ack_latency = String::new();
        with_local_recorder(&view, || {
            describe_view();
            gauge!("walgate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
            for source in sources {
                let name = source.name().to_owned();
                for (kind, count) in source.sessions().counts() {
                    gauge!("walgate_proxy_sessions", "source" => name.clone(), "kind" => kind).set(count as f64);
                }
                show_findings(source, now);
                let lag = source.lag();
                show_lag(&lag, now);
                write_ack_latency(&lag, &mut ack_latency);
            }
            gates.into_iter().for_each(show_gate);
        });
        let mut text = self.recorded.render();
        text.push_str(&view.handle().render());
        if !ack_latency.is_empty() {
            text.push_str(
                "# HELP walgate_ack_latency_seconds Time from a commit's being sent to its being acknowledged.\n",
            );
            text.push_str("# TYPE walgate_ack_latency_seconds histogram\n");
            text.push_str(&ack_latency);
        }
        text
    }
}

/// The gauges of these consumers in Prometheus' text format, without those that only a daemon has.
pub fn render_lag(consumers: &[ConsumerReport]) -> String {
    let view = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&view, || {
        describe_view();
        gauge!("walgate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        let mut table_labels = 0;
        consumers.iter().for_each(|report| show_consumer(report, &mut table_labels));
    });
    view.handle().render()
}

fn describe_view() {
    describe_gauge!("walgate_build_info", "The running version; always 1.");
    describe_gauge!("walgate_proxy_sessions", "Clients connected, by kind; those of the console are not relayed.");
    describe_gauge!("walgate_lag_seconds", Unit::Seconds, "Age of the oldest commit sent and not acknowledged.");
    describe_gauge!("walgate_lag_seconds_max", Unit::Seconds, "The most that the lag can be, undecoded WAL included.");
    describe_gauge!("walgate_lag_transactions", "Commits sent and not acknowledged.");
    describe_gauge!("walgate_lag_rows", "Rows sent and not acknowledged.");
    describe_gauge!("walgate_lag_bytes", Unit::Bytes, "Row messages sent and not acknowledged.");
    describe_gauge!("walgate_undecoded_wal_bytes", Unit::Bytes, "WAL the server has not decoded for the consumer.");
    describe_gauge!("walgate_open_transactions", "Transactions being streamed that are not committed.");
    describe_gauge!("walgate_retained_wal_bytes", Unit::Bytes, "WAL that the slot keeps from removal.");
    describe_gauge!("walgate_safe_wal_bytes", Unit::Bytes, "WAL that may be written before the slot is lost.");
    describe_gauge!("walgate_slot_active", "Whether somebody reads the slot.");
    describe_gauge!("walgate_slot_wal_status", "The slot's wal_status; 1 for the one it has.");
    describe_gauge!("walgate_table_pending_rows", "Rows sent and not acknowledged, by table.");
    describe_gauge!("walgate_last_frame_age_seconds", Unit::Seconds, "Time since the server was heard on the stream.");
    describe_gauge!("walgate_identity_findings", "Tables that break a rule; 0 for a rule that all keep.");
    describe_gauge!("walgate_gate_state", "How a phase stood when it was last asked about; 1 for the state it was in.");
    describe_gauge!(
        "walgate_consumer_state",
        "How far the consumer's figures can be trusted; 1 for the state it is in."
    );
}

fn show_lag(lag: &SourceLag, now: Instant) {
    let mut table_labels = 0;
    for report in lag.reports(now) {
        show_consumer(&report, &mut table_labels);
    }
    for (slot, age) in lag.last_frame_ages(now) {
        let labels = [("source", lag.name().to_owned()), ("slot", slot.to_string())];
        gauge!("walgate_last_frame_age_seconds", &labels).set(age.as_secs_f64());
    }
}

/// A figure for each state of the phases that somebody has asked about.
fn show_gate(gate: &Keeper) {
    for (phase, is) in gate.states() {
        for state in Status::OF_GATES {
            let gate = gate.terms().name.clone();
            let labels = [("gate", gate), ("phase", phase.to_string()), ("state", state.to_string())];
            gauge!("walgate_gate_state", &labels).set(f64::from(u8::from(state == is)));
        }
    }
}

/// A figure for each rule that was looked at; none where the newest audit does not count any more.
fn show_findings(source: &Source, now: Instant) {
    let Ok(report) = source.audited(now) else { return };
    let rules = report.scope.rules().map(|rule| ((rule.id, rule.severity), 0));
    let mut counts: BTreeMap<(&str, Severity), u64> = rules.filter(|_| report.is_whole()).collect();
    for finding in &report.audited.audit.findings {
        *counts.entry((finding.rule, finding.severity)).or_default() += 1;
    }
    for ((rule, severity), count) in counts {
        let source = source.name().to_owned();
        let labels = [("source", source), ("rule", rule.to_owned()), ("severity", severity.to_string())];
        gauge!("walgate_identity_findings", &labels).set(count as f64);
    }
}

/// A histogram kept by the model. The exporter's own would hold every commit until it is next asked, which at full speed
/// are millions.
fn write_ack_latency(lag: &SourceLag, text: &mut String) {
    let source = lag.name().replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    for (slot, latency) in lag.ack_latencies() {
        let labels = format!("source=\"{source}\",slot=\"{slot}\"");
        // Writing to a String cannot fail.
        for (bound, count) in latency.buckets() {
            let _ = writeln!(text, "walgate_ack_latency_seconds_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let (count, seconds) = (latency.count(), latency.seconds());
        let _ = writeln!(text, "walgate_ack_latency_seconds_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "walgate_ack_latency_seconds_sum{{{labels}}} {seconds}");
        let _ = writeln!(text, "walgate_ack_latency_seconds_count{{{labels}}} {count}");
    }
}

fn show_consumer(report: &ConsumerReport, table_labels: &mut usize) {
    let labels = [("source", report.source.clone()), ("slot", report.slot.to_string())];
    let and = |name: &'static str, value: &str| {
        let [source, slot] = labels.clone();
        [source, slot, (name, value.to_owned())]
    };
    let show = |name: &'static str, figure: Option<f64>| {
        if let Some(figure) = figure {
            gauge!(name, &labels).set(figure);
        }
    };
    let whole = |figure: Option<u64>| figure.map(|figure| figure as f64);
    show("walgate_lag_seconds", report.lag.seconds);
    show("walgate_lag_seconds_max", report.lag.seconds_max);
    show("walgate_lag_transactions", whole(report.lag.transactions));
    show("walgate_lag_rows", whole(report.lag.rows));
    show("walgate_lag_bytes", whole(report.lag.bytes));
    show("walgate_undecoded_wal_bytes", whole(report.lag.undecoded_wal_bytes));
    show("walgate_open_transactions", whole(report.lag.open_transactions));
    show("walgate_retained_wal_bytes", whole(report.retained_wal_bytes));
    show("walgate_safe_wal_bytes", report.safe_wal_bytes.map(|bytes| bytes as f64));
    show("walgate_slot_active", report.active.map(|active| f64::from(u8::from(active))));
    if let Some(status) = &report.wal_status {
        gauge!("walgate_slot_wal_status", &and("status", status)).set(1);
    }
    for state in State::ALL {
        let is = f64::from(u8::from(state == report.state));
        gauge!("walgate_consumer_state", &and("state", state.as_str())).set(is);
    }
    let mut other = 0;
    for table in &report.tables {
        if *table_labels < TABLE_LABELS {
            *table_labels += 1;
            gauge!("walgate_table_pending_rows", &and("table", &table.table.to_string())).set(table.rows as f64);
        } else {
            other += table.rows;
        }
    }
    if other > 0 {
        gauge!("walgate_table_pending_rows", &and("table", "other")).set(other as f64);
    }
}

/// The counters of a source's sessions.
#[derive(Clone)]
pub struct ProxyMetrics {
    /// Bytes relayed to the server.
    pub upstream_bytes: Counter,
    /// Bytes relayed to clients.
    pub downstream_bytes: Counter,
}

impl ProxyMetrics {
    /// Those of a source.
    pub fn new(source: &str) -> ProxyMetrics {
        let bytes = |direction: &'static str| counter!("walgate_proxy_bytes_total", "source" => source.to_owned(), "direction" => direction);
        ProxyMetrics { upstream_bytes: bytes("upstream"), downstream_bytes: bytes("downstream") }
    }
}

/// Message types by their tag in the stream.
const TYPES: [(&[u8], &str); 13] = [
    (b"I", "insert"),
    (b"U", "update"),
    (b"D", "delete"),
    (b"B", "begin"),
    (b"C", "commit"),
    (b"R", "relation"),
    (b"T", "truncate"),
    (b"M", "message"),
    (b"SEcA", "stream"),
    (b"bPKrp", "prepared"),
    (b"O", "origin"),
    (b"Y", "type"),
    (b"", "unknown"),
];

/// The index in `TYPES` of each tag.
const TYPE_OF_TAG: [u8; 256] = {
    let mut types = [TYPES.len() as u8 - 1; 256];
    let mut index = 0;
    while index < TYPES.len() {
        let mut tags = TYPES[index].0;
        while let [tag, rest @ ..] = tags {
            types[*tag as usize] = index as u8;
            tags = rest;
        }
        index += 1;
    }
    types
};

/// The counters of a replication stream. Messages are counted locally and added up once per piece of input.
pub struct StreamMetrics {
    source: String,
    messages: [(u64, Counter); TYPES.len()],
    keepalives: (u64, Counter),
    status_updates: (u64, Counter),
}

impl StreamMetrics {
    /// Those of a stream of a source.
    pub fn new(source: &str) -> StreamMetrics {
        let source = source.to_owned();
        let of = |kind: &'static str| {
            (0, counter!("walgate_proxy_messages_total", "source" => source.clone(), "type" => kind))
        };
        StreamMetrics {
            messages: TYPES.map(|(_, kind)| of(kind)),
            keepalives: of("keepalive"),
            status_updates: of("status_update"),
            source,
        }
    }

    /// A pgoutput message with this tag.
    #[inline]
    pub fn message(&mut self, tag: Option<&u8>) {
        let index = usize::from(TYPE_OF_TAG[usize::from(tag.copied().unwrap_or(0))]);
        if let Some((count, _)) = self.messages.get_mut(index) {
            *count += 1;
        }
    }

    /// A keepalive of the server.
    pub fn keepalive(&mut self) {
        self.keepalives.0 += 1;
    }

    /// A status update of the consumer.
    pub fn status_update(&mut self) {
        self.status_updates.0 += 1;
    }

    /// The stream cannot be followed.
    pub fn untapped(&mut self, reason: Untapped) {
        counter!("walgate_proxy_untapped_total", "source" => self.source.clone(), "reason" => reason.as_str())
            .increment(1);
    }

    /// Adds up what was counted since the last time.
    pub fn flush(&mut self) {
        for (count, counter) in self.messages.iter_mut().chain([&mut self.keepalives, &mut self.status_updates]) {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
    }
}
