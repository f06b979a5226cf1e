//! What the daemon answers over HTTP, as far as the story needs it.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::Request;

use super::Error;
use super::scene::{GATE, SLOT};
use crate::cli::gate::Report;
use crate::client;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The daemon's HTTP interface.
pub(super) struct Api {
    url: String,
    agent: Agent,
}

/// `/v1/lag`.
#[derive(Deserialize)]
struct Consumers {
    consumers: Vec<Consumer>,
}

#[derive(Clone, Default, Deserialize)]
pub(super) struct Consumer {
    state: String,
    pub(super) lag: Lag,
}

#[derive(Clone, Default, Deserialize)]
pub(super) struct Lag {
    pub(super) seconds: Option<f64>,
    pub(super) transactions: Option<u64>,
    pub(super) rows: Option<u64>,
    pub(super) bytes: Option<u64>,
}

/// `/v1/identity`.
#[derive(Deserialize)]
struct Findings {
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
pub(super) struct Finding {
    pub(super) rule: String,
    pub(super) severity: String,
    pub(super) table: Option<String>,
    pub(super) message: String,
    pub(super) fix: Option<String>,
}

/// A fence that stands.
#[derive(Deserialize)]
struct Fence {
    target_lsn: String,
}

impl Consumer {
    /// Whether it is known to have everything.
    pub(super) fn has_everything(&self) -> bool {
        self.state == "live" && self.lag.transactions == Some(0) && self.lag.seconds == Some(0.0)
    }
}

impl Api {
    pub(super) fn new(url: String) -> Api {
        Api { url, agent: client::agent(PATIENCE, &[]) }
    }

    /// What `/v1/lag` says of the subscription; unknown figures until it has connected.
    pub(super) async fn lag(&self) -> Result<Consumer, Error> {
        let consumers = self.read::<Consumers>(&format!("lag?slot={SLOT}")).await?.map(|answer| answer.consumers);
        Ok(consumers.unwrap_or_default().into_iter().next().unwrap_or_default())
    }

    /// The findings about a table; none that is known while the catalog has not been looked at.
    pub(super) async fn findings(&self, table: &str) -> Result<Option<Vec<Finding>>, Error> {
        let findings = self.read::<Findings>("identity").await?.map(|answer| answer.findings);
        let of_table = |finding: &Finding| finding.table.as_deref() == Some(table);
        Ok(findings.map(|findings| findings.into_iter().filter(of_table).collect()))
    }

    /// What the gate says, whichever its verdict.
    pub(super) async fn gate(&self) -> Result<Report, Error> {
        Ok(self.read(&format!("gates/{GATE}/check?status=200")).await?.ok_or("the gate gives no answer")?)
    }

    /// Where a fence stands.
    pub(super) async fn fence(&self) -> Result<Option<String>, Error> {
        Ok(self.read::<Fence>(&format!("gates/{GATE}/fence")).await?.map(|fence| fence.target_lsn))
    }

    /// What is below `/v1/`; `None` where that is not to be had now.
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        let request = Request::builder().method(Method::GET).uri(format!("{}/v1/{path}", self.url)).body(())?;
        let agent = self.agent.clone();
        let (status, body) = client::aside(move || {
            let mut response = agent.run(request)?;
            Ok::<_, ureq::Error>((response.status(), response.body_mut().read_to_string()?))
        })
        .await??;
        Ok(if status == StatusCode::OK { Some(serde_json::from_str(&body)?) } else { None })
    }
}
