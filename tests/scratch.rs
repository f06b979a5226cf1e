//! Throw-away servers: every version starts, by whomever it is started, and nothing outlives its owner.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use support::{Sql, postgres};
use walgate::scratch::VERSIONS;

#[test]
fn every_supported_version_starts_and_answers() {
    for major in VERSIONS {
        let t = std::time::Instant::now();
        let server = postgres(major).start().unwrap();
        eprintln!("{major} {:?}", t.elapsed());
        for dsn in [server.dsn("postgres"), server.socket_dsn("postgres")] {
            let sql = Sql::connect(&dsn);
            assert_eq!(sql.value("SHOW server_version"), server.installation().version());
            assert_eq!(sql.value("SHOW wal_level"), "logical");
        }
        drop(server);
        eprintln!("{major} {:?}", t.elapsed());
    }
}
