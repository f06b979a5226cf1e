//! From written settings to typed ones: the connection string, then the service, then the variables, then libpq's
//! defaults; the first that gives a key wins.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::error::{DsnError, Origin};
use super::keyword::{KEYWORDS, Support};
use super::{
    AuthMethod, ChannelBinding, ClientCertificate, Dsn, Host, RootCertificates, SslMode, SslNegotiation, Target,
    TargetSessionAttrs, TcpOptions, TlsOptions, TlsVersion, passfile, service, text,
};
use crate::source::secret::Secret;

const DEFAULT_PORT: u16 = 5432;
/// libpq waits for as long as the kernel does; a daemon and a probe must not.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where servers put their socket: Debian's and Red Hat's builds, and PostgreSQL's own default.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

impl Dsn {
    /// Resolves a connection string, or `DATABASE_URL` where there is none, or else the `PG…` variables alone.
    ///
    /// # Errors
    ///
    /// If it is malformed, names an unknown key, service or value, or asks for what walgate cannot honour.
    pub fn resolve(text: Option<&str>, environment: &dyn Environment) -> Result<Dsn, DsnError> {
        let settings = Settings::collect(text, environment)?;
        let home = environment.home();
        let user = settings.text("user");
        let database = settings.text("dbname");
        let mut dsn = Dsn {
            hosts: settings.hosts(environment)?,
            random_order: settings
                .one_of("load_balance_hosts", &[("disable", false), ("random", true)])?
                .unwrap_or(false),
            system_user: environment.user(),
            options: settings.text("options"),
            application_name: settings
                .text("application_name")
                .or(settings.text("fallback_application_name"))
                .unwrap_or_else(|| "walgate".into()),
            target_session_attrs: settings.target_session_attrs()?,
            connect_timeout: match settings.number("connect_timeout")? {
                None => Some(DEFAULT_CONNECT_TIMEOUT),
                Some(seconds) => positive(seconds).map(Duration::from_secs),
            },
            tcp: settings.tcp()?,
            tls: settings.tls(home.as_deref())?,
            channel_binding: settings
                .one_of(
                    "channel_binding",
                    &[
                        ("disable", ChannelBinding::Disable),
                        ("prefer", ChannelBinding::Prefer),
                        ("require", ChannelBinding::Require),
                    ],
                )?
                .unwrap_or_default(),
            require_auth: settings.require_auth()?,
            warnings: Vec::new(),
            user,
            database,
        };
        if let Some(password) = settings.text("password") {
            let password = Secret::new(password);
            dsn.hosts.iter_mut().for_each(|host| host.password = Some(password.clone()));
        } else {
            let file = settings.text("passfile").map(PathBuf::from);
            if let Some(file) = file.or(home.map(|home| home.join(".pgpass"))) {
                dsn.passwords_from(&file, environment);
            }
        }
        Ok(dsn)
    }

    fn passwords_from(&mut self, file: &Path, environment: &dyn Environment) {
        let (Some(user), Some(database)) = (self.login_user(), self.login_database()) else { return };
        match passfile::read(file, environment) {
            Ok(None) => {}
            Ok(Some(text)) => {
                let find = |host: &Host| passfile::password(&text, &passfile_host(host), host.port, database, user);
                let passwords: Vec<Option<Secret>> = self.hosts.iter().map(find).collect();
                for (host, password) in self.hosts.iter_mut().zip(passwords) {
                    host.password = password;
                }
            }
            Err(warning) => self.warnings.push(warning),
        }
    }
}

/// What the password file calls a host; the default socket is `localhost` there.
fn passfile_host(host: &Host) -> String {
    match &host.target {
        Target::Name(name) | Target::Address { name: Some(name), .. } => name.clone(),
        Target::Address { address, name: None } => address.to_string(),
        Target::Socket(directory) if SOCKET_DIRECTORIES.iter().any(|usual| Path::new(usual) == directory) => {
            "localhost".into()
        }
        Target::Socket(directory) => directory.to_string_lossy().into_owned(),
    }
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|&number| number > 0)
}

/// What was given, by key, and where.
struct Settings(Vec<(&'static str, String, Origin)>);

impl Settings {
    fn collect(text: Option<&str>, environment: &dyn Environment) -> Result<Settings, DsnError> {
        let variable = |name| environment.variable(name).filter(|value| !value.is_empty());
        let mut settings = Settings(Vec::new());

        let database_url = if text.is_none() { variable("DATABASE_URL") } else { None };
        let origin = if database_url.is_some() { Origin::Variable("DATABASE_URL") } else { Origin::Text };
        let written = text::parse(text.or(database_url.as_deref()).unwrap_or_default())?;
        for (keyword, value) in written.into_iter().rev() {
            settings.add(keyword.name, value, &origin);
        }

        if let Some(name) = settings.text("service").or_else(|| variable("PGSERVICE")) {
            let file = settings.text("servicefile").or_else(|| variable("PGSERVICEFILE"));
            for (keyword, value) in service::settings(&name, file.as_deref(), environment)? {
                settings.add(keyword.name, value, &Origin::Service(name.clone()));
            }
        }

        for keyword in KEYWORDS {
            if let Some((name, value)) = keyword.variable.and_then(|name| Some((name, variable(name)?))) {
                settings.add(keyword.name, value, &Origin::Variable(name));
            }
        }
        // The older spelling, which libpq still takes.
        if variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            settings.add("sslmode", "require".into(), &Origin::Variable("PGREQUIRESSL"));
        }

        for keyword in KEYWORDS {
            if let Support::Refused { unless, instead } = keyword.support
                && let Some((value, origin)) = settings.find(keyword.name)
                && !unless.contains(&value)
            {
                return Err(DsnError::Unsupported { key: keyword.name, origin: origin.clone(), instead });
            }
        }
        Ok(settings)
    }

    /// Adds a setting unless the key has one, be it empty: an empty one keeps those of lower precedence out.
    fn add(&mut self, key: &'static str, value: String, origin: &Origin) {
        if !self.0.iter().any(|(known, ..)| *known == key) {
            self.0.push((key, value, origin.clone()));
        }
    }

    /// The value of a key and where it came from; `None` where it is unset or empty.
    fn find(&self, key: &str) -> Option<(&str, &Origin)> {
        let (_, value, origin) = self.0.iter().find(|(known, ..)| *known == key)?;
        Some((value.as_str(), origin)).filter(|(value, _)| !value.is_empty())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.find(key).map(|(value, _)| value.to_owned())
    }

    fn invalid(&self, key: &'static str, expected: &'static str) -> DsnError {
        let origin = self.find(key).map_or(Origin::Text, |(_, origin)| origin.clone());
        DsnError::InvalidValue { key, origin, expected }
    }

    fn number(&self, key: &'static str) -> Result<Option<i64>, DsnError> {
        let number = |(value, _): (&str, _)| value.trim().parse::<i32>().map(i64::from);
        self.find(key).map(number).transpose().map_err(|_| self.invalid(key, "a whole number"))
    }

    fn one_of<T: Copy>(&self, key: &'static str, values: &[(&'static str, T)]) -> Result<Option<T>, DsnError> {
        let Some((value, origin)) = self.find(key) else { return Ok(None) };
        match values.iter().find(|(name, _)| *name == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
                Err(DsnError::NotOneOf { key, origin: origin.clone(), names: names.join(", ") })
            }
        }
    }

    fn hosts(&self, environment: &dyn Environment) -> Result<Vec<Host>, DsnError> {
        let list = |key| self.find(key).map(|(value, _)| value.split(',').map(str::trim).collect::<Vec<_>>());
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
        let names = names.unwrap_or_else(|| vec![""; count]);
        let addresses = addresses.unwrap_or_else(|| vec![""; count]);
        if names.len() != count {
            return Err(DsnError::Counts { key: "hostaddr", hosts: names.len(), others: count });
        }
        let ports = match ports {
            None => vec![""; count],
            Some(ports) if ports.len() == 1 => ports.repeat(count),
            Some(ports) if ports.len() == count => ports,
            Some(ports) => return Err(DsnError::Counts { key: "port", hosts: count, others: ports.len() }),
        };

        let mut hosts = Vec::with_capacity(count);
        for ((name, address), port) in names.into_iter().zip(addresses).zip(ports) {
            let port = match port {
                "" => DEFAULT_PORT,
                port => match port.parse() {
                    Ok(port) if port > 0 => port,
                    _ => return Err(self.invalid("port", "a number from 1 to 65535")),
                },
            };
            let target = match (name, address) {
                ("", "") => Target::Socket(default_socket_directory(port, environment)),
                (name, "") if name.starts_with(['/', '@']) => Target::Socket(name.into()),
                (name, "") => Target::Name(name.into()),
                (name, address) => {
                    let expected = "an IP address; give a name as host";
                    let address: IpAddr = address.parse().map_err(|_| self.invalid("hostaddr", expected))?;
                    Target::Address { address, name: Some(name.to_owned()).filter(|name| !name.is_empty()) }
                }
            };
            hosts.push(Host { target, port, password: None });
        }
        Ok(hosts)
    }

    fn target_session_attrs(&self) -> Result<TargetSessionAttrs, DsnError> {
        let attrs = self.one_of(
            "target_session_attrs",
            &[
                ("any", TargetSessionAttrs::Any),
                ("read-write", TargetSessionAttrs::ReadWrite),
                ("read-only", TargetSessionAttrs::ReadOnly),
                ("primary", TargetSessionAttrs::Primary),
                ("standby", TargetSessionAttrs::Standby),
                ("prefer-standby", TargetSessionAttrs::PreferStandby),
            ],
        )?;
        Ok(attrs.unwrap_or_default())
    }

    fn tcp(&self) -> Result<TcpOptions, DsnError> {
        let seconds = |key| Ok(self.number(key)?.and_then(positive).map(Duration::from_secs));
        Ok(TcpOptions {
            keepalives: self.number("keepalives")? != Some(0),
            keepalives_idle: seconds("keepalives_idle")?,
            keepalives_interval: seconds("keepalives_interval")?,
            keepalives_count: self
                .number("keepalives_count")?
                .and_then(positive)
                .and_then(|count| count.try_into().ok()),
            user_timeout: self.number("tcp_user_timeout")?.and_then(positive).map(Duration::from_millis),
        })
    }

    fn tls(&self, home: Option<&Path>) -> Result<TlsOptions, DsnError> {
        let default_file = |name: &str| home.map(|home| home.join(".postgresql").join(name));
        let mode = self.one_of(
            "sslmode",
            &[
                ("disable", SslMode::Disable),
                ("allow", SslMode::Allow),
                ("prefer", SslMode::Prefer),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ],
        )?;
        let roots = match self.find("sslrootcert") {
            Some(("system", _)) => RootCertificates::System,
            Some((path, _)) => RootCertificates::File { path: path.into(), named: true },
            None => default_file("root.crt")
                .map_or(RootCertificates::None, |path| RootCertificates::File { path, named: false }),
        };
        let mode = match (&roots, mode) {
            // Any public CA would vouch for an impostor's own host, so only the name is left to tell (libpq likewise).
            (RootCertificates::System, None | Some(SslMode::VerifyFull)) => SslMode::VerifyFull,
            (RootCertificates::System, Some(_)) => {
                return Err(DsnError::Conflict(
                    "sslrootcert=system trusts every public CA and needs sslmode=verify-full; set that, or leave sslmode out",
                ));
            }
            (_, mode) => mode.unwrap_or_default(),
        };
        let negotiation = self
            .one_of("sslnegotiation", &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)])?
            .unwrap_or_default();
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(DsnError::Conflict(
                "sslnegotiation=direct cannot fall back to a plain connection; set sslmode to require, verify-ca or verify-full",
            ));
        }

        let version = |key, values| Ok::<_, DsnError>(self.one_of::<Option<TlsVersion>>(key, values)?.flatten());
        // rustls begins at TLS 1.2, so the older minima mean that.
        let minimum = version(
            "ssl_min_protocol_version",
            &[
                ("TLSv1", None),
                ("TLSv1.1", None),
                ("TLSv1.2", Some(TlsVersion::Tls12)),
                ("TLSv1.3", Some(TlsVersion::Tls13)),
            ],
        )?;
        let maximum = version(
            "ssl_max_protocol_version",
            &[("TLSv1.2", Some(TlsVersion::Tls12)), ("TLSv1.3", Some(TlsVersion::Tls13))],
        )?;
        let min_version = minimum.unwrap_or(TlsVersion::Tls12);
        let max_version = maximum.unwrap_or(TlsVersion::Tls13);
        if min_version > max_version {
            return Err(DsnError::Conflict("ssl_min_protocol_version is above ssl_max_protocol_version"));
        }

        let show_certificate = self.one_of("sslcertmode", &[("disable", false), ("allow", true)])?.unwrap_or(true)
            && mode != SslMode::Disable;
        let (certificate, named) = match self.find("sslcert") {
            Some((path, _)) => (Some(PathBuf::from(path)), true),
            None => (default_file("postgresql.crt"), false),
        };
        let key = self.find("sslkey").map(|(path, _)| PathBuf::from(path)).or_else(|| default_file("postgresql.key"));
        let certificate = match (certificate, key) {
            (Some(certificate), Some(key)) if show_certificate => Some(ClientCertificate { certificate, key, named }),
            (Some(_), None) if show_certificate && named => {
                return Err(DsnError::Conflict("sslcert needs sslkey: there is no home directory to find a key in"));
            }
            _ => None,
        };
        Ok(TlsOptions {
            mode,
            negotiation,
            roots,
            certificate,
            server_name_indication: self.one_of("sslsni", &[("1", true), ("0", false)])?.unwrap_or(true),
            min_version,
            max_version,
        })
    }

    fn require_auth(&self) -> Result<Option<Vec<AuthMethod>>, DsnError> {
        const METHODS: &[(&str, AuthMethod)] = &[
            ("password", AuthMethod::Password),
            ("md5", AuthMethod::Md5),
            ("scram-sha-256", AuthMethod::ScramSha256),
            ("none", AuthMethod::None),
            ("gss", AuthMethod::Other),
            ("sspi", AuthMethod::Other),
            ("oauth", AuthMethod::Other),
        ];
        let Some((list, _)) = self.find("require_auth") else { return Ok(None) };
        let expected =
            "a comma-separated list of password, md5, scram-sha-256 and none, either all or none with ! before them";
        let words: Vec<&str> = list.split(',').map(str::trim).collect();
        let negated = words.iter().filter(|word| word.starts_with('!')).count();
        let find = |word: &&str| METHODS.iter().find(|(name, _)| *name == word.trim_start_matches('!'));
        let named: Option<Vec<_>> = words.iter().map(|word| find(word).map(|(_, method)| *method)).collect();
        match named {
            Some(named) if negated == 0 => Ok(Some(named)),
            Some(named) if negated == words.len() => {
                let others = METHODS.iter().map(|(_, method)| *method).filter(|method| !named.contains(method));
                Ok(Some(others.collect()))
            }
            _ => Err(self.invalid("require_auth", expected)),
        }
    }
}

/// The directory that holds the server's socket, or the one where it would be put.
fn default_socket_directory(port: u16, environment: &dyn Environment) -> PathBuf {
    let socket = format!(".s.PGSQL.{port}");
    let holds_socket = |directory: &&Path| environment.file(&directory.join(&socket)).is_some();
    let exists = |directory: &&Path| environment.file(directory).is_some();
    let usual = SOCKET_DIRECTORIES.map(Path::new);
    usual.into_iter().find(holds_socket).or(usual.into_iter().find(exists)).unwrap_or(Path::new("/tmp")).into()
}
