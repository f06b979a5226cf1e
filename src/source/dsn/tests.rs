use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Variables and files that exist only here.
#[derive(Default)]
struct Here {
    variables: HashMap<String, String>,
    files: HashMap<PathBuf, (String, u32)>,
}

impl Here {
    fn new() -> Here {
        Here::default()
    }

    fn set(mut self, name: &str, value: &str) -> Here {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn file(mut self, path: &str, text: &str, mode: u32) -> Here {
        self.files.insert(path.into(), (text.into(), mode));
        self
    }

    fn resolve(&self, text: &str) -> Dsn {
        Dsn::resolve(Some(text), self).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refuse(&self, text: &str) -> DsnError {
        Dsn::resolve(Some(text), self).expect_err(text)
    }
}

impl Environment for Here {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn home(&self) -> Option<PathBuf> {
        Some("/home/me".into())
    }

    fn user(&self) -> Option<String> {
        Some("me".into())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).map(|(text, _)| text.clone()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn file(&self, path: &Path) -> Option<File> {
        self.files.get(path).map(|(_, mode)| File { is_regular: true, mode: *mode, owned_by_root: false })
    }
}

/// What a string comes to: hosts, user, database, password of the first host.
fn outline(text: &str) -> String {
    let dsn = Here::new().resolve(text);
    let hosts: Vec<String> = dsn.hosts().iter().map(Host::to_string).collect();
    let password = dsn.hosts()[0].password.as_ref().map_or("-", Secret::expose);
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    format!("{} {} {} {password}", hosts.join(","), or_none(&dsn.user), or_none(&dsn.database))
}

#[test]
fn uris_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("postgresql://", "/tmp/.s.PGSQL.5432 - - -"),
        ("postgres://localhost", "localhost:5432 - - -"),
        ("postgresql://localhost:5433", "localhost:5433 - - -"),
        ("postgresql://localhost/mydb", "localhost:5432 - mydb -"),
        ("postgresql://user@localhost", "localhost:5432 user - -"),
        ("postgresql://user:secret@localhost", "localhost:5432 user - secret"),
        ("postgresql://:secret@localhost", "localhost:5432 - - secret"),
        ("postgresql://user:@localhost", "localhost:5432 user - -"),
        ("postgresql://u:a:b@localhost/", "localhost:5432 u - a:b"),
        (
            "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp",
            "localhost:5432 other otherdb -",
        ),
        ("postgresql://host1:123,host2:456/somedb?target_session_attrs=any", "host1:123,host2:456 - somedb -"),
        ("postgresql://host1,host2:456/", "host1:5432,host2:456 - - -"),
        ("postgresql:///mydb?host=localhost&port=5433", "localhost:5433 - mydb -"),
        ("postgresql://[2001:db8::1234]/database", "[2001:db8::1234]:5432 - database -"),
        ("postgresql://u@[::1]:5433,[::2]:1/", "[::1]:5433,[::2]:1 u - -"),
        ("postgresql:///dbname?host=/var/lib/postgresql", "/var/lib/postgresql/.s.PGSQL.5432 - dbname -"),
        ("postgresql://%2Fvar%2Flib%2Fpostgresql:6/dbname", "/var/lib/postgresql/.s.PGSQL.6 - dbname -"),
        ("postgresql://us%40er:p%2Fa%3As%25s@h/d%20b", "h:5432 us@er d b p/a:s%s"),
        ("postgresql://h?user=u&password=p%26q", "h:5432 u - p&q"),
        ("postgresql://u?x:p@h", "h:5432 u?x - p"),
        ("postgresql://h/db?user=a&user=b", "h:5432 b db -"),
    ] {
        assert_eq!(outline(text), expected, "{text}");
    }
}

#[test]
fn key_value_strings_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("", "/tmp/.s.PGSQL.5432 - - -"),
        ("host=localhost port=5433 dbname=mydb", "localhost:5433 - mydb -"),
        ("  host = localhost\n\tuser\t=\tme ", "localhost:5432 me - -"),
        (r"password='it\'s \\ here' host=h", r"h:5432 - - it's \ here"),
        (r"password=a\ b\'c host=h", "h:5432 - - a b'c"),
        ("host='' dbname='a b'", "/tmp/.s.PGSQL.5432 - a b -"),
        ("host=a,b,c port=1,,3", "a:1,b:5432,c:3 - - -"),
        ("host=a,b port=7", "a:7,b:7 - - -"),
        ("host=a,,/run/x", "a:5432,/tmp/.s.PGSQL.5432,/run/x/.s.PGSQL.5432 - - -"),
        ("host=db hostaddr=10.0.0.1", "db:5432 - - -"),
        ("hostaddr=::1,10.0.0.1", "[::1]:5432,10.0.0.1:5432 - - -"),
        ("host=@abstract", "@abstract/.s.PGSQL.5432 - - -"),
        ("user=a user=b", "/tmp/.s.PGSQL.5432 b - -"),
    ] {
        assert_eq!(outline(text), expected, "{text}");
    }
}

#[test]
fn a_malformed_string_is_refused_with_what_to_do() {
    for (text, expected) in [
        ("mydb", "write key=value"),
        ("host", "no \"=\""),
        ("host=a password='x", "character 17 of the connection string is not closed"),
        ("hots=a", "did you mean \"host\"?"),
        ("postgresql://h?sslmod=require", "did you mean \"sslmode\"?"),
        ("postgresql://h?sslmode", "has a parameter without ="),
        ("postgresql://h?a=b=c", "has a parameter with two ="),
        ("postgresql://h/%zz", "two hexadecimal digits"),
        ("postgresql://h/%00", "two hexadecimal digits"),
        ("postgresql://h/%ff", "not UTF-8"),
        ("postgresql://[::1/db", "has a [ without ]"),
        ("postgresql://[]/db", "no IPv6 address"),
        ("postgresql://[::1]x/db", "no IPv6 address"),
        ("postgresql://u:p@ss@h/db", "has an @ that is not the end"),
        ("postgresql://u:12/34@h/db", "has an @ that is not the end"),
        ("host=a,b port=1,2,3", "2 hosts and 3 of port"),
        ("host=a,b hostaddr=10.0.0.1", "2 hosts and 1 of hostaddr"),
        ("port=0", "port in the connection string must be a number from 1 to 65535"),
        ("port=65536", "must be a number from 1 to 65535"),
        ("hostaddr=localhost", "must be an IP address"),
        ("sslmode=on", "must be one of disable, allow, prefer"),
        ("connect_timeout=1s", "must be a whole number"),
        ("target_session_attrs=rw", "must be one of any, read-write"),
        ("sslrootcert=system sslmode=require", "needs sslmode=verify-full"),
        ("sslnegotiation=direct", "set sslmode to require"),
        ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "is above"),
        ("require_auth=md5,!none", "comma-separated"),
        ("gssencmode=require", "gssencmode in the connection string cannot be honoured"),
        ("requirepeer=postgres", "cannot be honoured"),
        ("sslcrl=/a", "revocation lists"),
        ("sslpassword=x", "does not decrypt"),
        ("min_protocol_version=3.2", "protocol 3.0"),
    ] {
        let message = Here::new().refuse(text).to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn settings_without_effect_here_are_accepted() {
    Here::new().resolve("gssencmode=prefer krbsrvname=x client_encoding=LATIN1 replication=database sslcompression=0");
    Here::new().set("PGGSSENCMODE", "disable").set("PGSSLCRL", "").resolve("requirepeer='' max_protocol_version=3.2");
}

#[test]
fn the_string_goes_before_the_service_before_variables_before_defaults() {
    let here = Here::new()
        .set("PGHOST", "variable")
        .set("PGPORT", "1")
        .set("PGUSER", "variable")
        .set("PGDATABASE", "variable")
        .set("PGAPPNAME", "")
        .file(
            "/home/me/.pg_service.conf",
            "# ours\n[other]\nhost=no\n\n[blue]\nhost=service\nuser=service\nuser=late\n[x]\nuser=x\n",
            0o644,
        );
    let dsn = here.resolve("service=blue host=string");
    assert_eq!(dsn.to_string(), "postgresql://service@string:1/variable");
    assert_eq!(dsn.application_name, "walgate");
    assert_eq!(here.resolve("").to_string(), "postgresql://variable@variable:1/variable");
    assert_eq!(here.resolve("host='' port=2").hosts()[0].to_string(), "/tmp/.s.PGSQL.2");
}

#[test]
fn database_url_counts_when_there_is_no_string() {
    let here = Here::new().set("DATABASE_URL", "postgres://u@url/db?sslmode=nonsense").set("PGHOST", "variable");
    let message = Dsn::resolve(None, &here).unwrap_err().to_string();
    assert!(message.starts_with("sslmode from DATABASE_URL must be one of"), "{message}");
    let here = here.set("DATABASE_URL", "postgres://u@url/db");
    assert_eq!(Dsn::resolve(None, &here).unwrap().to_string(), "postgresql://u@url:5432/db");
    assert_eq!(here.resolve("").to_string(), "postgresql://variable:5432");
}

#[test]
fn services_are_found_in_the_users_then_the_systems_file() {
    let here = Here::new().set("PGSYSCONFDIR", "/etc/pg").set("PGSERVICE", "blue");
    let message = here.refuse("").to_string();
    assert!(
        message.contains("\"blue\" is not defined in /home/me/.pg_service.conf or /etc/pg/pg_service.conf"),
        "{message}"
    );
    let here = here.file("/etc/pg/pg_service.conf", "[blue]\nhost=system\n", 0o644);
    assert_eq!(here.resolve("").hosts()[0].to_string(), "system:5432");
    let here = here.file("/home/me/.pg_service.conf", "[blue]\nhost=mine\n[bad]\nhots=x\n[ldap]\nldap://x\n", 0o644);
    assert_eq!(here.resolve("").hosts()[0].to_string(), "mine:5432");
    assert!(here.refuse("service=bad").to_string().contains("line 4, has a key that libpq does not know"));
    assert!(here.refuse("service=ldap").to_string().contains("LDAP"));
    assert!(here.refuse("servicefile=/none").to_string().contains("/none"));
}

#[test]
fn passwords_come_from_the_password_file_unless_given() {
    let lines = "a:1:db:me:first\n*:*:*:other:second\nlocalhost:*:*:*:socket\n";
    let here = Here::new().file("/home/me/.pgpass", lines, 0o600);
    let password = |dsn: Dsn| dsn.hosts()[0].password.as_ref().map(|secret| secret.expose().to_owned());
    assert_eq!(password(here.resolve("host=a port=1 dbname=db")).as_deref(), Some("first"));
    assert_eq!(password(here.resolve("host=a port=1 dbname=db password=given")).as_deref(), Some("given"));
    assert_eq!(password(here.resolve("host=b user=other")).as_deref(), Some("second"));
    assert_eq!(password(here.resolve("")).as_deref(), Some("socket"));
    assert_eq!(password(here.resolve("host=/elsewhere")), None);
    assert_eq!(password(here.resolve("host=a port=1 dbname=db passfile=/none")), None);
    let both = here.resolve("host=a,b port=1,2 user=other");
    assert_eq!(both.hosts()[1].password.as_ref().map(Secret::expose), Some("second"));
}

#[test]
fn a_password_file_that_others_may_read_is_ignored_with_a_warning() {
    let dsn = Here::new().file("/home/me/.pgpass", "*:*:*:*:x\n", 0o640).resolve("host=a");
    assert_eq!(dsn.hosts()[0].password, None);
    assert_eq!(dsn.warnings, [DsnWarning::PassfilePermissions("/home/me/.pgpass".into())]);
    assert!(dsn.warnings[0].to_string().contains("chmod 600"));
}

#[test]
fn a_person_may_name_an_address_alone() {
    for (argument, host) in [
        ("db:5433", "db:5433"),
        ("db", "db:5432"),
        ("[::1]:6432", "[::1]:6432"),
        ("/run/pg", "/run/pg/.s.PGSQL.5432"),
        ("host=db port=5434", "db:5434"),
        ("postgresql://db:5435/app", "db:5435"),
    ] {
        let dsn = Dsn::from_argument(Some(argument), &Here::new()).unwrap();
        assert_eq!(dsn.hosts()[0].to_string(), host, "{argument}");
    }
    let named = Here::new().set("DATABASE_URL", "postgresql://named:5436/app");
    assert_eq!(Dsn::from_argument(None, &named).unwrap().hosts()[0].to_string(), "named:5436");
}

#[test]
fn only_a_file_of_roots_may_be_lent_to_a_group() {
    let is_private = |mode, owned_by_root| File { is_regular: true, mode, owned_by_root }.is_private();
    assert!(is_private(0o600, false) && is_private(0o400, true) && is_private(0o440, true));
    assert!(!is_private(0o440, false) && !is_private(0o444, true) && !is_private(0o660, true));
}

#[test]
fn an_address_alone_names_no_user_until_a_session_needs_one() {
    let dsn = Here::new().resolve("host=db port=5432");
    assert_eq!((dsn.user.as_deref(), dsn.database.as_deref()), (None, None));
    assert_eq!((dsn.login_user(), dsn.login_database()), (Some("me"), Some("me")));
    assert_eq!(Here::new().resolve("host=db user=app").login_database(), Some("app"));
}

#[test]
fn encryption_settings_follow_libpqs_defaults() {
    let dsn = Here::new().resolve("host=a");
    assert_eq!(dsn.tls.mode, SslMode::Prefer);
    assert_eq!(dsn.tls.roots, RootCertificates::File { path: "/home/me/.postgresql/root.crt".into(), named: false });
    assert_eq!(dsn.channel_binding, ChannelBinding::Prefer);
    assert_eq!(Here::new().resolve("sslrootcert=system").tls.mode, SslMode::VerifyFull);
    assert_eq!(Here::new().resolve("postgresql://h?ssl=true").tls.mode, SslMode::Require);
    assert_eq!(Here::new().set("PGREQUIRESSL", "1").resolve("").tls.mode, SslMode::Require);
    assert_eq!(Here::new().set("PGREQUIRESSL", "1").resolve("sslmode=disable").tls.mode, SslMode::Disable);
    assert_eq!(Here::new().resolve("sslcertmode=disable sslcert=/a sslkey=/b").tls.certificate, None);
}

#[test]
fn timeouts_and_keepalives_are_numbers_of_which_none_means_off() {
    let dsn = Here::new().resolve("connect_timeout=3 keepalives_idle=60 keepalives_count=0 tcp_user_timeout=1500");
    assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(dsn.tcp.keepalives_idle, Some(Duration::from_secs(60)));
    assert_eq!(dsn.tcp.keepalives_count, None);
    assert_eq!(dsn.tcp.user_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(Here::new().resolve("connect_timeout=0").connect_timeout, None);
    assert_eq!(Here::new().resolve("").connect_timeout, Some(Duration::from_secs(10)));
    assert!(!Here::new().resolve("keepalives=0").tcp.keepalives);
}

#[test]
fn require_auth_lists_methods_or_excludes_them() {
    let methods = |text: &str| Here::new().resolve(&format!("require_auth={text}")).require_auth.unwrap();
    assert_eq!(methods("scram-sha-256,md5"), [AuthMethod::ScramSha256, AuthMethod::Md5]);
    assert!(methods("!password,!none").contains(&AuthMethod::ScramSha256));
    assert!(!methods("!password,!none").contains(&AuthMethod::None));
}

proptest! {
    #[test]
    fn no_password_is_ever_printed(
        password in "[!-~]{6,20}",
        text in prop::sample::select(vec![
            "postgresql://u:{}@h:1/db?sslmode=x", "postgresql://u:{}@h/db", "postgresql://u:{}@h:port/db",
            "postgresql://h/db?password={}", "postgresql://h/db?user=u&password={}&bad", "postgresql://:{}",
            "password={}", "host=h password='{}' sslmode=x", "host=h password='{}", "host=h password={} x", "{}",
            "password = {}", "pasword={}", "host=h passwd={} port=x", "hostaddr=x password={}", "u:{}@h/db",
        ]),
    ) {
        let text = text.replace("{}", &password);
        let here = Here::new();
        // Quotes, slashes and the like break the string in two: none of the pieces may show either.
        let pieces: Vec<&str> = password
            .split(['/', '@', ':', '?', '#', '&', '=', '\'', '\\', '%', ',', '[', ']'])
            .filter(|piece| piece.len() > 5)
            .collect();
        let printed = match Dsn::resolve(Some(&text), &here) {
            Err(error) => format!("{error} {error:?}"),
            Ok(dsn) => {
                // A string that is well-formed after all may hold the piece as a host or a database.
                let hosts: String = dsn.hosts().iter().map(ToString::to_string).collect();
                let known = [hosts, dsn.user.clone().unwrap_or_default(), dsn.database.clone().unwrap_or_default()].concat();
                let printed = format!("{dsn} {dsn:?}");
                if pieces.iter().any(|piece| known.contains(piece)) { String::new() } else { printed }
            }
        };
        for piece in pieces {
            prop_assert!(!printed.contains(piece), "{piece} of {text} in {printed}");
        }
    }

    #[test]
    fn no_string_makes_the_parser_panic(text in "(postgresql://)?[ -~é\n]{0,60}") {
        let _ = Dsn::resolve(Some(&text), &Here::new());
    }
}
