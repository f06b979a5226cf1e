//! The keys of a connection string: those of libpq 18 (`PQconninfoOptions` in `fe-connect.c`), the variable each is
//! defaulted from, and what walgate does with it.

/// One key.
#[derive(Debug)]
pub(super) struct Keyword {
    pub(super) name: &'static str,
    pub(super) variable: Option<&'static str>,
    pub(super) support: Support,
}

/// What walgate does with a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Support {
    /// It has its effect.
    Honoured,
    /// It has no effect here and none is missed.
    NoEffect,
    /// It would matter and cannot be had: any other value than these is refused, with what to do instead.
    Refused { unless: &'static [&'static str], instead: &'static str },
}

use Support::{Honoured, NoEffect, Refused};

const fn key(name: &'static str, variable: Option<&'static str>, support: Support) -> Keyword {
    Keyword { name, variable, support }
}

const NO_GSS: &str = "walgate has no GSSAPI; use TLS (sslmode) and another authentication method";
const NO_CRL: &str = "walgate does not read revocation lists; leave it out, or revoke by changing the CA";
const NO_OAUTH: &str = "walgate has no OAuth flow; use a role with a password or a client certificate";

#[rustfmt::skip]
pub(super) const KEYWORDS: &[Keyword] = &[
    key("service", Some("PGSERVICE"), Honoured),
    key("servicefile", Some("PGSERVICEFILE"), Honoured),
    key("user", Some("PGUSER"), Honoured),
    key("password", Some("PGPASSWORD"), Honoured),
    key("passfile", Some("PGPASSFILE"), Honoured),
    key("channel_binding", Some("PGCHANNELBINDING"), Honoured),
    key("connect_timeout", Some("PGCONNECT_TIMEOUT"), Honoured),
    key("dbname", Some("PGDATABASE"), Honoured),
    key("host", Some("PGHOST"), Honoured),
    key("hostaddr", Some("PGHOSTADDR"), Honoured),
    key("port", Some("PGPORT"), Honoured),
    key("options", Some("PGOPTIONS"), Honoured),
    key("application_name", Some("PGAPPNAME"), Honoured),
    key("fallback_application_name", None, Honoured),
    key("keepalives", None, Honoured),
    key("keepalives_idle", None, Honoured),
    key("keepalives_interval", None, Honoured),
    key("keepalives_count", None, Honoured),
    key("tcp_user_timeout", None, Honoured),
    key("sslmode", Some("PGSSLMODE"), Honoured),
    key("sslnegotiation", Some("PGSSLNEGOTIATION"), Honoured),
    key("sslcert", Some("PGSSLCERT"), Honoured),
    key("sslkey", Some("PGSSLKEY"), Honoured),
    key("sslcertmode", Some("PGSSLCERTMODE"), Honoured),
    key("sslrootcert", Some("PGSSLROOTCERT"), Honoured),
    key("sslsni", Some("PGSSLSNI"), Honoured),
    key("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Honoured),
    key("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Honoured),
    key("require_auth", Some("PGREQUIREAUTH"), Honoured),
    key("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Honoured),
    key("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Honoured),
    // Each session sets these as it needs them: the encoding is UTF-8, and replication follows from what it does.
    key("client_encoding", Some("PGCLIENTENCODING"), NoEffect),
    key("replication", None, NoEffect),
    // Without effect in libpq too.
    key("authtype", None, NoEffect),
    key("tty", None, NoEffect),
    key("sslcompression", Some("PGSSLCOMPRESSION"), NoEffect),
    // These matter only with GSSAPI.
    key("krbsrvname", Some("PGKRBSRVNAME"), NoEffect),
    key("gsslib", Some("PGGSSLIB"), NoEffect),
    key("gssdelegation", Some("PGGSSDELEGATION"), NoEffect),
    // walgate speaks protocol 3.0, which every server takes.
    key("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), NoEffect),
    key("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Refused { unless: &["3.0"], instead: "walgate's own sessions speak protocol 3.0; leave it out" }),
    key("gssencmode", Some("PGGSSENCMODE"), Refused { unless: &["disable", "prefer"], instead: NO_GSS }),
    key("requirepeer", Some("PGREQUIREPEER"), Refused { unless: &[], instead: "walgate does not ask who owns the server's socket; use a socket directory that only the server can write to" }),
    key("sslcrl", Some("PGSSLCRL"), Refused { unless: &[], instead: NO_CRL }),
    key("sslcrldir", Some("PGSSLCRLDIR"), Refused { unless: &[], instead: NO_CRL }),
    key("sslpassword", None, Refused { unless: &[], instead: "walgate does not decrypt client keys; store the key unencrypted, readable by its owner only (openssl pkey -in KEY -out PLAIN)" }),
    key("sslkeylogfile", None, Refused { unless: &[], instead: "walgate does not log TLS keys; leave it out" }),
    key("scram_client_key", None, Refused { unless: &[], instead: "walgate logs in with a password or a client certificate" }),
    key("scram_server_key", None, Refused { unless: &[], instead: "walgate logs in with a password or a client certificate" }),
    key("oauth_issuer", None, Refused { unless: &[], instead: NO_OAUTH }),
    key("oauth_client_id", None, Refused { unless: &[], instead: NO_OAUTH }),
    key("oauth_client_secret", None, Refused { unless: &[], instead: NO_OAUTH }),
    key("oauth_scope", None, Refused { unless: &[], instead: NO_OAUTH }),
];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// The key that a mistyped name most probably meant: the one fewest edits away.
pub(super) fn nearest(name: &str) -> &'static str {
    let distance = |keyword: &&Keyword| edits(name.as_bytes(), keyword.name.as_bytes());
    KEYWORDS.iter().min_by_key(distance).map_or("host", |keyword| keyword.name)
}

/// How many bytes to insert, delete or replace to get from one name to the other (Levenshtein).
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, byte) in from.iter().enumerate() {
        let mut left = row + 1;
        let mut current = vec![left];
        for (wanted, pair) in to.iter().zip(above.windows(2)) {
            let &[diagonal, up] = pair else { continue };
            left = (diagonal + usize::from(byte != wanted)).min(up + 1).min(left + 1);
            current.push(left);
        }
        above = current;
    }
    above.last().copied().unwrap_or(0)
}
