//! Which timeline a server is on, and where those before it ended.

use std::time::Instant;

use super::{Unseen, piece};
use crate::gate::{Fork, Piece};
use crate::lag::History;
use crate::lsn::Lsn;
use crate::source::connect::Connector;
use crate::source::dsn::Host;
use crate::source::error::{ConnectError, Failure};
use crate::source::replication::{ReplicationSession, Walsender};

/// What IDENTIFY_SYSTEM and TIMELINE_HISTORY say.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The server's history, a standby's too.
    pub history: Piece<History>,
    /// Where the timelines before its own ended, oldest first; none on the first.
    pub forks: Piece<Vec<Fork>>,
}

/// Opens a replication session with a host, of the kind that consumers of logical slots open, and asks [`timeline`]. That it
/// cannot be opened is the reason why nothing is known.
pub async fn timeline_of(connector: &Connector, host: &Host) -> Timeline {
    let asked = async {
        let mut session = connector.replication_at(host, Walsender::Database).await?;
        let seen = timeline(&mut session).await?;
        // How it ends makes no difference any more.
        let _ = session.close().await;
        Ok::<_, ConnectError>(seen)
    };
    asked.await.unwrap_or_else(|error| {
        let why = format!("no replication connection: {error}");
        Timeline { history: Piece::Unseen(why.clone()), forks: Piece::Unseen(why) }
    })
}

/// Asks a walsender of either kind which timeline its server is on, and where those before it ended. A standby that is
/// promoted forks where it has replayed to, so what it had not received is not in its history: two that were promoted are
/// of the same system and of timelines of the same number, and only where they fork tells them apart.
///
/// # Errors
/// If the session is lost.
pub async fn timeline(session: &mut ReplicationSession) -> Result<Timeline, ConnectError> {
    let begun = Instant::now();
    let system = session.identify_system().await.map_err(Unseen::from);
    let history = system.map(|it| History { system: it.system_identifier, timeline: Some(it.timeline) });
    let history = piece("IDENTIFY_SYSTEM", begun, history)?;
    let begun = Instant::now();
    let forks = match history.value().and_then(|history| history.timeline) {
        None => Err(Unseen::Reason("the timeline is not known".into())),
        Some(1) => Ok(Vec::new()),
        Some(timeline) => match session.timeline_history(timeline).await {
            Ok(file) => forks(&file.content).ok_or_else(|| Unseen::Reason(format!("{:?} says nothing", file.content))),
            Err(failure) => Err(failure.into()),
        },
    };
    Ok(Timeline { history, forks: piece("TIMELINE_HISTORY", begun, forks)? })
}

impl From<Failure> for Unseen {
    fn from(failure: Failure) -> Unseen {
        match failure {
            Failure::Server(error) if error.severity == "ERROR" => Unseen::Reason(error.to_string()),
            failure => Unseen::Lost(failure.into()),
        }
    }
}

/// Reads a history file (`readTimeLineHistory` in `timeline.c`): a timeline, where it ended and why, line by line, with
/// comments. `None` if it is none.
fn forks(content: &str) -> Option<Vec<Fork>> {
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let forks = lines.map(|line| {
        let mut words = line.split_whitespace();
        Some(Fork { timeline: words.next()?.parse().ok()?, at: words.next()?.parse::<Lsn>().ok()? })
    });
    let forks: Vec<Fork> = forks.collect::<Option<_>>()?;
    (!forks.is_empty() && forks.is_sorted_by(|a, b| a.timeline < b.timeline)).then_some(forks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_says_where_each_timeline_ended() {
        let content = "1\t0/1774440\tno recovery target specified\n\n# by hand\n3\t1A/9\tbefore 2000-01-01 01:00:00\n";
        let expected = [Fork { timeline: 1, at: Lsn(0x177_4440) }, Fork { timeline: 3, at: Lsn(0x1a_0000_0009) }];
        assert_eq!(forks(content).unwrap(), expected);
        for content in ["", "# nothing", "1", "x\t0/1\t", "1\t0-1\t", "2\t0/1\t\n1\t0/2\t", "1\t0/1\n1\t0/1"] {
            assert_eq!(forks(content), None, "{content:?}");
        }
    }
}
