//! The webhook: posts which findings have come and gone to a URL, as JSON that Slack's incoming webhooks take as well.
//!
//! It follows each source on its own. While one post waits for an answer, what changes meanwhile waits with the source,
//! within bounds; what is lost to them, or is not taken after a few attempts, is counted and logged.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{StatusCode, Uri};
use metrics::counter;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use crate::client;
use crate::identity::{Finding, Severity};
use crate::source::{FindingChanges, Secret, Source};
use crate::time::PgTimestamp;

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Before each further attempt.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// Findings that the text names, of those that came and of those that went.
const NAMED: usize = 20;

/// A URL of http or https. It may be a secret, as Slack's are: no more than its host is ever shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    whole: Secret,
    host: Box<str>,
}

impl Url {
    /// The host, to be shown.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// All of it, to be asked.
    pub fn expose(&self) -> &str {
        self.whole.expose()
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Url, Self::Err> {
        const EXPECTED: &str = "expected a URL that begins with https:// or http://";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => {
                Ok(Url { whole: Secret::new(text), host: host.into() })
            }
            _ => Err(EXPECTED),
        }
    }
}

/// What is posted. Slack looks at `text` alone.
#[derive(Serialize)]
struct Body<'a> {
    text: String,
    source: &'a str,
    appeared: Vec<&'a Finding>,
    gone: Vec<&'a Finding>,
    at: PgTimestamp,
}

/// Why a post was not taken.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Failed(String),
}

impl PostError {
    /// Whether another attempt may do better.
    fn may_pass(&self) -> bool {
        match self {
            PostError::Status(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => true,
            PostError::Status(status) => status.is_server_error(),
            PostError::Failed(_) => true,
        }
    }
}

/// Where changes are posted, for all sources.
#[derive(Debug, Default)]
pub struct Webhook {
    url: RwLock<Option<Url>>,
}

impl Webhook {
    /// Posts there from now on, or nowhere.
    pub fn set(&self, url: Option<Url>) {
        *self.url.write().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn url(&self) -> Option<Url> {
        self.url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Posts what changes with this source from now on, until it is gone.
    pub fn follow(self: &Arc<Webhook>, source: &Source) {
        let (webhook, name, mut changes) = (Arc::clone(self), source.name().to_owned(), source.finding_changes());
        tokio::spawn(async move {
            loop {
                match changes.recv().await {
                    Ok(changes) => webhook.tell(&changes).await,
                    Err(RecvError::Lagged(missed)) => {
                        counter!("walgate_errors_total", "source" => name.clone(), "kind" => "webhook")
                            .increment(missed);
                        tracing::error!(
                            source = name,
                            missed,
                            "the webhook is too slow: it was not told of some changes"
                        );
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Posts until it is taken, or nobody wants it any more.
    async fn tell(&self, changes: &FindingChanges) {
        let Some(body) = body(changes) else { return };
        let source = &*changes.source;
        let mut pauses = PAUSES.iter();
        while let Some(url) = self.url() {
            let host = url.host.clone();
            let Err(error) = post_aside(url, body.clone()).await else { return };
            counter!("walgate_errors_total", "source" => source.to_owned(), "kind" => "webhook").increment(1);
            match pauses.next().filter(|_| error.may_pass()) {
                Some(pause) => {
                    tracing::warn!(source, host, %error, "the webhook cannot be told; trying again");
                    sleep(*pause).await;
                }
                None => {
                    tracing::error!(source, host, %error, "the webhook was not told of findings: see /v1/identity");
                    return;
                }
            }
        }
    }
}

/// What to post; `None` if nothing that has changed is worth it.
fn body(changes: &FindingChanges) -> Option<String> {
    let appeared: Vec<&Finding> = changes.changes.appeared.iter().filter(|finding| is_bad(finding)).collect();
    let gone: Vec<&Finding> = changes.changes.gone.iter().filter(|finding| is_bad(finding)).collect();
    if appeared.is_empty() && gone.is_empty() {
        return None;
    }
    let (source, at) = (&*changes.source, changes.at);
    serde_json::to_string(&Body { text: text(source, &appeared, &gone), source, appeared, gone, at }).ok()
}

fn is_bad(finding: &Finding) -> bool {
    finding.severity >= Severity::Warning
}

/// For people, in Slack's markup.
fn text(source: &str, appeared: &[&Finding], gone: &[&Finding]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut text = format!("*walgate, source {}*: {} new, {} gone", escape(source), appeared.len(), gone.len());
    // Writing to a String cannot fail.
    for finding in appeared.iter().take(NAMED) {
        let Finding { severity, rule, message, .. } = finding;
        let _ = write!(text, "\n• *{severity}* {rule} {}: {}", escape(&finding.place()), escape(message));
        if let Some(mend) = &finding.mend {
            let _ = write!(text, "\n```{}```", escape(&mend.to_string()));
        }
    }
    for finding in gone.iter().take(NAMED) {
        let _ = write!(text, "\n• gone: {} {}", finding.rule, escape(&finding.place()));
    }
    if appeared.len().max(gone.len()) > NAMED {
        text.push_str("\n• and more: walgate check lists them");
    }
    text
}

/// Posts without holding up the streams.
async fn post_aside(url: Url, body: String) -> Result<(), PostError> {
    client::aside(move || post(&url, &body)).await.unwrap_or_else(|error| Err(PostError::Failed(error.to_string())))
}

fn post(url: &Url, body: &str) -> Result<(), PostError> {
    let sent = client::agent(TIMEOUT, &[]).post(url.expose()).content_type("application/json").send(body);
    match sent.map(|response| response.status()) {
        Ok(status) if status.is_success() => Ok(()),
        Ok(status) => Err(PostError::Status(status)),
        Err(error) => Err(PostError::Failed(client::in_words(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::TableName;
    use crate::identity::Changes;

    fn finding(severity: Severity) -> Finding {
        Finding {
            rule: "pg/no-identity",
            severity,
            table: Some(TableName { schema: "public".into(), name: "a<b".into() }),
            publication: None,
            message: "it breaks & fails".into(),
            mend: None,
        }
    }

    fn changes(appeared: Vec<Finding>, gone: Vec<Finding>) -> FindingChanges {
        FindingChanges { source: "main".into(), changes: Changes { appeared, gone }, at: PgTimestamp(0) }
    }

    #[test]
    fn a_url_shows_its_host_only_and_must_be_one_of_http() {
        let url: Url = "https://hooks.slack.com/services/T0/B0/hunter2".parse().unwrap();
        assert_eq!(url.host(), "hooks.slack.com");
        assert!(!format!("{url:?}").contains("hunter2"));
        for text in ["", "hooks.slack.com/services", "/services", "ftp://a/b", "https://", "https:///x", "http s://a"] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_text_is_escaped_and_bounded_and_the_findings_are_whole() {
        let many = vec![finding(Severity::Error); 300];
        let body: serde_json::Value = serde_json::from_str(&body(&changes(many, vec![])).unwrap()).unwrap();
        let text = body["text"].as_str().unwrap();
        assert!(text.starts_with("*walgate, source main*: 300 new, 0 gone\n• *error* pg/no-identity"), "{text}");
        assert!(text.contains("a&lt;b") && text.contains("breaks &amp; fails") && text.len() < 8000, "{text}");
        assert_eq!(body["appeared"].as_array().unwrap().len(), 300);
        assert_eq!(body["appeared"][0]["table"], "public.\"a<b\"");
    }

    #[test]
    fn what_is_good_to_know_is_posted_to_nobody() {
        assert_eq!(body(&changes(vec![finding(Severity::Info)], vec![])), None);
        assert!(body(&changes(vec![], vec![finding(Severity::Warning)])).is_some());
    }
}
