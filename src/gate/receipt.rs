//! The receipt of a pass: what was proven, until when it counts, and a signature that whoever holds the key can check.
//!
//! The signature is HMAC-SHA-256 in lower-case hexadecimal, over this text in UTF-8. Every line ends with one newline,
//! the last one too; what is null is `-`; there is one line of a slot for each, in the order of the receipt:
//!
//! ```text
//! walgate-receipt-1
//! gate=blue-green
//! phase=cutover
//! system_identifier=7412345678901234567
//! timeline=1
//! target_lsn=0/5A2E4F8
//! nonce=5f1d7c9be2a84d03
//! fenced_at=2026-11-21T03:24:58.004112Z
//! issued_at=2026-11-21T03:25:17.123456Z
//! expires_at=2026-11-21T03:35:17.123456Z
//! slot=green_sub acked=0/5A2E530 decoded=0/5A2E530
//! ```

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::case::Case;
use super::terms::Phase;
use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// The shortest key, in bytes: what is shorter can be guessed.
const KEY_LEN: usize = 16;

/// How far the clocks of two machines may be apart.
const SKEW: Duration = Duration::from_secs(60);

/// What a pass proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The gate's name.
    pub gate: String,
    /// What was asked of it.
    pub phase: Phase,
    /// What names the cluster that is the source; a string, for it needs 64 bits.
    pub system_identifier: Option<String>,
    /// The source's timeline.
    pub timeline: Option<u32>,
    /// The consumers that have everything, and how far they were seen to be.
    pub slots: Vec<ReceiptSlot>,
    /// The fence that they have passed.
    pub target_lsn: Option<Lsn>,
    /// What the fence's barrier message carries.
    pub nonce: Option<String>,
    /// When walgate set the fence, by its clock; none where the position is one that the caller vouches for.
    pub fenced_at: Option<PgTimestamp>,
    /// When it passed, by walgate's clock.
    pub issued_at: PgTimestamp,
    /// Until when that counts.
    pub expires_at: PgTimestamp,
    /// The signature, where the gate has a key.
    pub hmac: Option<String>,
}

/// How far a consumer was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReceiptSlot {
    /// Its slot.
    pub slot: SlotName,
    /// What it had acknowledged as flushed.
    pub acked: Option<Lsn>,
    /// What the server had decoded and put on the wire for it.
    pub decoded: Option<Lsn>,
}

/// How long receipts of a gate count, and what signs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptTerms {
    /// From the pass on.
    pub ttl: Duration,
    /// Without it they are not signed.
    pub key: Option<ReceiptKey>,
}

impl Default for ReceiptTerms {
    fn default() -> ReceiptTerms {
        ReceiptTerms { ttl: Duration::from_secs(600), key: None }
    }
}

/// What signs receipts. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiptKey(Box<[u8]>);

/// A text that is too short for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of fewer than {KEY_LEN} bytes can be guessed; make one with: openssl rand -hex 32")]
pub struct ReceiptKeyError;

/// Why a receipt does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Anybody could have written it.
    #[error("it is not signed: the gate needs receipt_key_file")]
    Unsigned,
    /// It was not signed with this key, or it was changed since.
    #[error("it is forged, or signed with another key")]
    Forged,
    /// It is from the future.
    #[error("it is not valid before {0}: are the clocks right?")]
    NotYetValid(PgTimestamp),
    /// It is too old.
    #[error("it expired at {0}")]
    Expired(PgTimestamp),
}

impl ReceiptKey {
    /// Takes what a key file holds; white space around it does not count.
    ///
    /// # Errors
    /// If it is too short.
    pub fn new(text: &[u8]) -> Result<ReceiptKey, ReceiptKeyError> {
        let key = text.trim_ascii();
        if key.len() < KEY_LEN { Err(ReceiptKeyError) } else { Ok(ReceiptKey(key.into())) }
    }
}

impl fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Receipt {
    /// The receipt of a case that has passed just now, signed where there is a key.
    pub fn issue(case: &Case<'_>, terms: &ReceiptTerms, now: PgTimestamp) -> Receipt {
        // Before the fence nothing was proven of it.
        let fence = case.fence().filter(|_| case.asked.phase != Phase::Preflight);
        let standing = case.evidence.source.standing.value().map(|standing| standing.history);
        let history = fence.as_ref().and_then(|fence| fence.history).or(standing);
        let slot = |slot: &SlotName| {
            let report = case.evidence.consumers.get(slot).and_then(|consumer| consumer.report.as_ref());
            let positions = report.map(|report| report.positions);
            let (acked, decoded) = (positions.and_then(|at| at.acked), positions.and_then(|at| at.decoded));
            ReceiptSlot { slot: slot.clone(), acked, decoded }
        };
        let mut receipt = Receipt {
            gate: case.terms.name.clone(),
            phase: case.asked.phase,
            system_identifier: history.map(|history| history.system.to_string()),
            timeline: history.and_then(|history| history.timeline),
            slots: case.consumers().iter().map(slot).collect(),
            target_lsn: fence.as_ref().map(|fence| fence.target_lsn),
            nonce: fence.as_ref().and_then(|fence| fence.nonce.clone()),
            fenced_at: fence.and_then(|fence| fence.set_at),
            issued_at: now,
            expires_at: now.plus(terms.ttl),
            hmac: None,
        };
        receipt.hmac = terms.key.as_ref().map(|key| receipt.signature(key));
        receipt
    }

    /// Whether it was signed with this key, and counts now.
    ///
    /// # Errors
    /// With why it does not count.
    pub fn verify(&self, key: &ReceiptKey, now: PgTimestamp) -> Result<(), ReceiptError> {
        let shown = self.hmac.as_deref().ok_or(ReceiptError::Unsigned)?;
        // No receipt has a line break in a name; with one, two receipts could be of one text.
        let texts = [Some(&self.gate), self.system_identifier.as_ref(), self.nonce.as_ref()];
        let is_plain = texts.into_iter().flatten().all(|text| !text.contains(char::is_control));
        if !is_plain || !bool::from(self.signature(key).as_bytes().ct_eq(shown.as_bytes())) {
            return Err(ReceiptError::Forged);
        }
        if now.plus(SKEW) < self.issued_at {
            return Err(ReceiptError::NotYetValid(self.issued_at));
        }
        if now >= self.expires_at {
            return Err(ReceiptError::Expired(self.expires_at));
        }
        Ok(())
    }

    fn signature(&self, key: &ReceiptKey) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
        mac.update(self.canonical().as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What is signed: see above.
    fn canonical(&self) -> String {
        let or_dash = |value: Option<&dyn Display>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let mut text = format!(
            "walgate-receipt-1\ngate={}\nphase={}\nsystem_identifier={}\ntimeline={}\ntarget_lsn={}\nnonce={}\n\
             fenced_at={}\nissued_at={}\nexpires_at={}\n",
            self.gate,
            self.phase,
            or_dash(self.system_identifier.as_ref().map(|id| id as _)),
            or_dash(self.timeline.as_ref().map(|timeline| timeline as _)),
            or_dash(self.target_lsn.as_ref().map(|lsn| lsn as _)),
            or_dash(self.nonce.as_ref().map(|nonce| nonce as _)),
            or_dash(self.fenced_at.as_ref().map(|at| at as _)),
            self.issued_at,
            self.expires_at,
        );
        for ReceiptSlot { slot, acked, decoded } in &self.slots {
            let (acked, decoded) =
                (or_dash(acked.as_ref().map(|lsn| lsn as _)), or_dash(decoded.as_ref().map(|lsn| lsn as _)));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "slot={slot} acked={acked} decoded={decoded}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn key() -> ReceiptKey {
        ReceiptKey::new(KEY).unwrap()
    }

    fn signed() -> Receipt {
        let lsn = |text: &str| Some(text.parse().unwrap());
        let mut receipt = Receipt {
            gate: "blue-green".into(),
            phase: Phase::Cutover,
            system_identifier: Some("7412345678901234567".into()),
            timeline: Some(1),
            slots: vec![ReceiptSlot {
                slot: "green_sub".parse().unwrap(),
                acked: lsn("0/5A2E530"),
                decoded: lsn("0/5A2E530"),
            }],
            target_lsn: lsn("0/5A2E4F8"),
            nonce: Some("5f1d7c9be2a84d03".into()),
            fenced_at: Some("2026-11-21T03:24:58.004112Z".parse().unwrap()),
            issued_at: PgTimestamp(848_546_717_123_456),
            expires_at: PgTimestamp(848_547_317_123_456),
            hmac: None,
        };
        receipt.hmac = Some(receipt.signature(&key()));
        receipt
    }

    #[test]
    fn the_signature_is_that_of_openssl_over_the_documented_text() {
        let documented: String = include_str!("receipt.rs")
            .lines()
            .skip_while(|line| *line != "//! walgate-receipt-1")
            .take_while(|line| *line != "//! ```")
            .map(|line| format!("{}\n", line.trim_start_matches("//! ")))
            .collect();
        assert_eq!(signed().canonical(), documented);
        // openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        assert_eq!(signed().hmac.unwrap(), "3ce88f1cb56f633ad3b731ec14e1c7a0f9a81afcaea87fae370e535548ebb57b");
    }

    #[test]
    fn a_receipt_counts_from_its_issue_to_its_expiry() {
        let (receipt, second) = (signed(), Duration::from_secs(1));
        assert_eq!(receipt.verify(&key(), receipt.issued_at), Ok(()));
        assert_eq!(receipt.verify(&key(), receipt.issued_at.plus(599 * second)), Ok(()));
        assert_eq!(receipt.verify(&key(), receipt.expires_at), Err(ReceiptError::Expired(receipt.expires_at)));
        let long_before = PgTimestamp(receipt.issued_at.0 - 61_000_000);
        assert_eq!(receipt.verify(&key(), long_before), Err(ReceiptError::NotYetValid(receipt.issued_at)));
    }

    #[test]
    fn whatever_is_changed_in_a_receipt_shows() {
        type Change = fn(&mut Receipt);
        let changes: [Change; 13] = [
            |receipt| receipt.gate.push('2'),
            |receipt| receipt.gate = "blue-green\nphase=cutover".into(),
            |receipt| receipt.phase = Phase::Preflight,
            |receipt| receipt.system_identifier = None,
            |receipt| receipt.timeline = Some(2),
            |receipt| receipt.slots.clear(),
            |receipt| receipt.slots[0].acked = None,
            |receipt| receipt.target_lsn = Some(Lsn(1)),
            |receipt| receipt.nonce = Some(String::new()),
            |receipt| receipt.fenced_at = None,
            |receipt| receipt.issued_at = PgTimestamp(0),
            |receipt| receipt.expires_at = PgTimestamp(i64::MAX),
            |receipt| receipt.hmac = Some(String::new()),
        ];
        let now = signed().issued_at;
        for change in changes {
            let mut receipt = signed();
            change(&mut receipt);
            assert_eq!(receipt.verify(&key(), now), Err(ReceiptError::Forged), "{receipt:?}");
        }
        assert_eq!(
            signed().verify(&ReceiptKey::new(b"another key of 32 bytes or so...").unwrap(), now),
            Err(ReceiptError::Forged)
        );
        assert_eq!(Receipt { hmac: None, ..signed() }.verify(&key(), now), Err(ReceiptError::Unsigned));
    }

    #[test]
    fn a_receipt_is_read_as_it_was_written() {
        let text = serde_json::to_string(&signed()).unwrap();
        assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), signed());
        for (from, to) in
            [("0/5A2E4F8", "x"), ("cutover", "cut"), ("green_sub", "Green"), ("2026-", "26-"), ("nonce", "once")]
        {
            assert!(serde_json::from_str::<Receipt>(&text.replace(from, to)).is_err(), "{from}");
        }
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused() {
        assert_eq!(ReceiptKey::new(b"  short key \n"), Err(ReceiptKeyError));
        assert_eq!(ReceiptKey::new(b" 0123456789abcdef\n"), ReceiptKey::new(b"0123456789abcdef"));
        assert_eq!(format!("{:?}", key()), "***");
    }
}
