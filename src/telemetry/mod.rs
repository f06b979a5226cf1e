//! Metrics and logs.
//!
//! Counters and histograms are recorded where things happen, through the `metrics` facade. Gauges that
//! show a model (lag, sessions, slots) are computed when they are asked for, so that a figure that is not
//! known is absent and never the last one that was.

mod logs;
mod metrics;

pub use logs::init as init_logs;
pub use metrics::{Metrics, ProxyMetrics, StreamMetrics, render_lag};
