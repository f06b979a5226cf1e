//! walgate speaks PostgreSQL's streaming replication protocol, measures the true lag of every consumer,
//! and stands between a server and its consumers as a transparent proxy.

pub mod cli;
pub mod client;
pub mod config;
pub mod console;
pub mod daemon;
pub mod doctor;
pub mod gate;
pub mod http;
pub mod ident;
pub mod identity;
pub mod keeper;
pub mod lag;
pub mod lsn;
pub mod pgoutput;
pub mod proxy;
pub mod scram;
pub mod scratch;
pub mod source;
pub mod telemetry;
pub mod time;
pub mod tls;
pub mod units;
pub mod verify;
pub mod webhook;
pub mod wire;
