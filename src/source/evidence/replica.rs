//! How far the SQLite replica of a zero-cache is, as its `/statz` tells.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use ureq::Agent;

use crate::client;
use crate::gate::Piece;
use crate::lsn::Lsn;
use crate::source::Secret;
use crate::webhook::Url;

/// How long zero-cache may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// The most that is read of an answer; the one that is asked for has some 40 bytes.
const LONGEST: u64 = 64 << 10;

/// The answer to `group=replication&format=json` (zero-cache's `statz.ts`). What cannot be computed is an `error` in the
/// place of the figures, and the status is 200 all the same.
#[derive(Deserialize)]
struct Statz {
    replication: Replication,
}

#[derive(Deserialize)]
struct Replication {
    lsn: Option<Lsn>,
    error: Option<String>,
}

/// A zero-cache that is asked.
#[derive(Clone, Debug)]
pub struct Replica {
    agent: Agent,
    url: Url,
    password: Option<Secret>,
}

impl Replica {
    /// Of the zero-cache whose `/statz` and admin password these are.
    pub fn new(url: Url, password: Option<Secret>) -> Replica {
        Replica { agent: client::agent(WITHIN, &[]), url, password }
    }

    /// The `commit_lsn` of the last transaction that the replica has applied: it is not past the transaction's end, so it
    /// never reaches a fence while nothing is written behind it.
    pub async fn position(&self) -> Piece<Lsn> {
        let at = Instant::now();
        let replica = self.clone();
        let asked = client::aside(move || replica.ask()).await;
        match asked.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(value) => Piece::Seen { value, at, from: "zero-cache's /statz" },
            Err(why) => Piece::Unseen(format!("zero-cache's /statz at {}: {why}", self.url.host())),
        }
    }

    fn ask(&self) -> Result<Lsn, String> {
        let mut request = self.agent.get(self.url.expose()).query("group", "replication").query("format", "json");
        if let Some(password) = &self.password {
            // Any user will do.
            let credentials = BASE64.encode(format!("walgate:{}", password.expose()));
            request = request.header("Authorization", format!("Basic {credentials}"));
        }
        let mut response = request.call().map_err(|error| client::in_words(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err("it wants another password: statz_password_file is to hold ZERO_ADMIN_PASSWORD".into());
            }
            status => return Err(format!("it answers {status}")),
        }
        let body = response.body_mut().with_config().limit(LONGEST).read_to_string();
        position(&body.map_err(|error| client::in_words(&error))?)
    }
}

fn position(body: &str) -> Result<Lsn, String> {
    let answer: Statz = serde_json::from_str(body).map_err(|error| format!("it answers what says nothing: {error}"))?;
    match answer.replication {
        Replication { lsn: Some(lsn), error: None } => Ok(lsn),
        Replication { error, .. } => Err(error.unwrap_or_else(|| "it names no position".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_is_one() {
        assert_eq!(position(r#"{"replication":{"lsn":"0/32709C0"}}"#), Ok(Lsn(0x327_09c0)));
        let refused = r#"{"replication":{"error":"SqliteError: no such table: _zero.replicationState"}}"#;
        assert_eq!(position(refused).unwrap_err(), "SqliteError: no such table: _zero.replicationState");
        for body in ["", "OK", "{}", "null", r#"{"replication":{}}"#, r#"{"replication":{"lsn":"00:7b"}}"#] {
            assert!(position(body).is_err(), "{body}");
        }
    }
}
