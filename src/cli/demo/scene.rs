//! The scene: two databases, and the daemon between them, which runs with a file as `walgate run -c` does.

use std::path::PathBuf;

use super::Error;
use super::answers::Api;
use super::shop::{FIRST_ROWS, SCHEMA, session};
use crate::config::{self, Console};
use crate::daemon::Daemon;
use crate::scratch::{Server, free_port};
use crate::source::sql::SqlSession;
use crate::telemetry::Metrics;

/// The subscription and, as PostgreSQL names it, its slot.
pub(super) const SLOT: &str = "green_sub";

/// The gate before green takes over.
pub(super) const GATE: &str = "blue-green";

/// The ports that the documentation shows: of the proxy, and of the HTTP interface.
const USUAL: (u16, u16) = (6432, 9632);

pub(super) struct Scene {
    /// The connection strings of both databases, and the one by way of the proxy.
    pub(super) dsn: Way<String>,
    through: String,
    pub(super) session: Way<SqlSession>,
    pub(super) api: Api,
    file: PathBuf,
    ports: (u16, u16),
    _daemon: Daemon,
}

/// One of each database.
pub(super) struct Way<T> {
    pub(super) blue: T,
    pub(super) green: T,
}

impl Scene {
    /// Makes both databases, and starts the daemon.
    pub(super) async fn set(blue: &Server, green: &Server) -> Result<Scene, Error> {
        for server in [blue, green] {
            session(&plain(server.dsn("postgres")), "demo").await?.batch_execute("CREATE DATABASE shop").await?;
        }
        let dsn = Way { blue: plain(blue.dsn("shop")), green: plain(green.dsn("shop")) };
        let session = Way { blue: session(&dsn.blue, "shop").await?, green: session(&dsn.green, "shop").await? };
        session.blue.batch_execute(&[SCHEMA, FIRST_ROWS].concat()).await?;
        session.green.batch_execute(SCHEMA).await?;

        let metrics = Metrics::install()?;
        let start = async |ports| {
            let file = blue.keep("walgate.toml", &configuration(&dsn, ports))?;
            let daemon = Daemon::start(config::read(&file)?, metrics.clone()).await;
            Ok::<_, Error>((daemon.map_err(|error| error.to_string())?, file, ports))
        };
        let (daemon, file, ports) = match start(USUAL).await {
            Ok(started) => started,
            Err(_) => start((free_port()?, free_port()?)).await?,
        };
        let through = plain(blue.dsn_via(ports.0, "shop"));
        let api = Api::new(format!("http://127.0.0.1:{}", ports.1));
        Ok(Scene { dsn, through, session, api, file, ports, _daemon: daemon })
    }

    /// Has green follow blue, which begins with a copy.
    pub(super) async fn subscribe(&self) -> Result<(), Error> {
        let through = &self.through;
        let create = format!("CREATE SUBSCRIPTION {SLOT} CONNECTION '{through}' PUBLICATION shop");
        Ok(self.session.green.batch_execute(&create).await?)
    }

    /// A command line as it is written for people, as its words.
    pub(super) fn words(&self, line: &str) -> Vec<String> {
        let meant = |word: &str| match word {
            "\"$BLUE\"" => self.dsn.blue.clone(),
            "\"$GREEN\"" => self.dsn.green.clone(),
            "\"$CONFIG\"" => self.file.display().to_string(),
            word => word.to_owned(),
        };
        line.split(' ').map(meant).collect()
    }

    /// What there is to try by hand.
    pub(super) fn introduction(&self) -> String {
        let Scene { dsn: Way { blue, green }, through, file, ports: (proxy, http), .. } = self;
        let (file, program) = (file.display(), std::env::args_os().next().unwrap_or_else(|| "walgate".into()));
        let (program, console) = (program.display(), Console::DATABASE);
        format!(
            "
  A shop writes to blue, and green follows through walgate, which runs with the file $CONFIG. To look for yourself:

  export BLUE='{blue}'
  export GREEN='{green}'
  export PROXY='{through}'
  export CONFIG='{file}'

  how far behind green is   curl http://127.0.0.1:{http}/v1/lag
                            {program} lag \"$BLUE\" --watch
  or, in SQL                psql -h 127.0.0.1 -p {proxy} {console} -c 'SHOW LAG'
  tables that will break    curl http://127.0.0.1:{http}/v1/identity
                            {program} check \"$BLUE\"
  may green take over?      curl http://127.0.0.1:{http}/v1/gates/{GATE}/check
                            {program} gate check {GATE} -c \"$CONFIG\"
  is blue fit for all this? {program} doctor \"$BLUE\"
  all of it                 http://127.0.0.1:{http}/ in a browser, and http://127.0.0.1:{http}/metrics
  the databases             psql \"$BLUE\", psql \"$GREEN\", and blue through the proxy: psql \"$PROXY\"
"
        )
    }
}

/// The servers have no TLS, whatever the environment says.
fn plain(dsn: String) -> String {
    format!("{dsn} sslmode=disable")
}

/// The file of the daemon.
fn configuration(dsn: &Way<String>, (proxy, http): (u16, u16)) -> String {
    let Way { blue, green } = dsn;
    format!(
        r#"[http]
listen = "127.0.0.1:{http}"

[[source]]
name = "blue"
dsn = "{blue}"
listen = "127.0.0.1:{proxy}"

[[gate]]
name = "{GATE}"
source = "blue"
consumers = ["{SLOT}"]
settle = "2s"       # of steady lag before a preflight passes
data = true         # a cutover compares all rows

[gate.target]
kind = "subscription"
dsn = "{green}"
"#
    )
}
