//! The daemon that is asked, and what it answers.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::Request;

use crate::cli::{UNREACHABLE, USAGE};
use crate::config;
use crate::gate::Phase;
use crate::identity::in_comment;
use crate::lsn::Lsn;
use crate::source::Secret;
use crate::{client, units};

/// Where a daemon answers unless its configuration says otherwise.
const DEFAULT: &str = "http://127.0.0.1:9632";

/// Which gate of which daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The gate's name
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Where the daemon answers HTTP [default: WALGATE_URL, else http://127.0.0.1:9632]
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    url: Option<String>,
    /// Ask the daemon on this machine that runs with this file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file that holds the daemon's token [default: WALGATE_TOKEN, or what the file of -c says]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What is asked
    #[arg(long, value_name = "preflight|cutover|post|rollback", default_value = "cutover")]
    pub(super) phase: Phase,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    pub(super) timeout: Duration,
}

/// A daemon that can be asked.
pub(super) struct Daemon {
    url: String,
    token: Option<Secret>,
    trusted: Vec<CertificateDer<'static>>,
}

/// An answer of a daemon's.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

/// Why there is none that helps.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unreachable(String),
}

/// An error answer.
#[derive(Deserialize)]
pub(super) struct Problem {
    pub(super) detail: String,
    /// The fence that stands already.
    pub(super) target_lsn: Option<Lsn>,
}

impl Failure {
    /// Tells it, with the status that it ends with.
    pub(super) fn exit(&self) -> ExitCode {
        eprintln!("walgate: {self}");
        match self {
            Failure::Usage(_) => USAGE.into(),
            Failure::Unreachable(_) => UNREACHABLE.into(),
        }
    }
}

fn usage(error: impl Display) -> Failure {
    Failure::Usage(error.to_string())
}

impl Which {
    /// The daemon that is meant.
    ///
    /// # Errors
    /// If a file cannot be used, or what is named is no URL.
    pub(super) fn daemon(&self) -> Result<Daemon, Failure> {
        let given = self.url.clone().or_else(|| std::env::var("WALGATE_URL").ok().filter(|url| !url.is_empty()));
        let mut daemon = match (&self.config, given) {
            (Some(file), _) => self.configured(file)?,
            (None, given) => {
                Daemon { url: base(given.as_deref().unwrap_or(DEFAULT))?, token: None, trusted: Vec::new() }
            }
        };
        if let Some(file) = &self.token_file {
            daemon.token = Some(config::read_secret(file).map_err(|error| usage(format!("--token-file: {error}")))?);
        } else if let Some(token) = std::env::var("WALGATE_TOKEN").ok().filter(|token| !token.is_empty()) {
            daemon.token = Some(Secret::new(token));
        }
        Ok(daemon)
    }

    fn configured(&self, file: &std::path::Path) -> Result<Daemon, Failure> {
        let config = config::read(file).map_err(usage)?;
        let names: Vec<&str> = config.gates.iter().map(|gate| &*gate.terms.name).collect();
        if !names.contains(&&*self.name) {
            let known =
                if names.is_empty() { "it has no [[gate]]".into() } else { format!("there is {}", names.join(", ")) };
            return Err(usage(format!("{}: there is no gate {:?}; {known}", file.display(), self.name)));
        }
        let http = config.http.ok_or_else(|| usage(format!("{}: http.listen is off", file.display())))?;
        let scheme = if http.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", reachable(http.listen));
        // It may have signed its certificate itself, or send its authority's along.
        let trusted = http.tls.as_ref().map(|tls| CertificateDer::pem_file_iter(tls.certificate()));
        let trusted = trusted.transpose().map_err(usage)?.into_iter().flatten().collect::<Result<_, _>>();
        Ok(Daemon { url, token: http.token, trusted: trusted.map_err(usage)? })
    }
}

/// An address to connect to, for one to listen at.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A URL that a path can be put behind.
fn base(text: &str) -> Result<String, Failure> {
    let uri: Option<Uri> = text.parse().ok();
    let is_http = uri.as_ref().and_then(Uri::scheme_str).is_some_and(|scheme| matches!(scheme, "http" | "https"));
    match uri.filter(|uri| is_http && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none()) {
        Some(_) => Ok(text.trim_end_matches('/').to_owned()),
        None => Err(usage(format!("{text:?} is no URL like {DEFAULT}"))),
    }
}

impl Which {
    /// Makes sure that an answer is of this gate and phase: who stands in between may have kept that of another question.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn is_answered_by(&self, gate: &str, phase: &str) -> Result<(), Failure> {
        if gate == self.name && phase == self.phase.as_str() {
            return Ok(());
        }
        let (gate, phase) = (in_comment(gate), in_comment(phase));
        Err(Failure::Unreachable(format!("what answers there was not asked: it speaks of the {phase} of {gate}")))
    }
}

impl Daemon {
    /// Asks for what is below `/v1/`. An answer that the daemon gives on purpose is one, whatever its status.
    ///
    /// # Errors
    /// If there is none within the time.
    pub(super) fn ask(&self, method: Method, path: &str, timeout: Duration) -> Result<Answer, Failure> {
        let url = format!("{}/v1/{path}", self.url);
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        let request = request.body(()).map_err(usage)?;
        let failed =
            |error| Failure::Unreachable(format!("{} does not answer: {}", self.url, client::in_words(&error)));
        let mut response = client::agent(timeout, &self.trusted).run(request).map_err(failed)?;
        let body = response.body_mut().read_to_string().map_err(failed)?;
        Ok(Answer { status: response.status(), body })
    }
}

impl Answer {
    /// The answer as this.
    ///
    /// # Errors
    /// If it is another: then it says why, or is not walgate's.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.body).map_err(|_| self.problem())
    }

    /// What an error answer means for who asked.
    pub(super) fn problem(&self) -> Failure {
        match serde_json::from_str::<Problem>(&self.body) {
            Ok(Problem { detail, .. }) if self.status == StatusCode::UNAUTHORIZED => {
                Failure::Usage(format!("{detail}: set WALGATE_TOKEN, or give --token-file"))
            }
            Ok(Problem { detail, .. }) if self.status.is_client_error() => Failure::Usage(detail),
            Ok(Problem { detail, .. }) => Failure::Unreachable(detail),
            Err(_) => Failure::Unreachable(format!("what answers there is no walgate: it says {}", self.status)),
        }
    }
}
