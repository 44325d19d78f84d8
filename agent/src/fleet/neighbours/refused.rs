//! What becomes of a notice, and why something from the local network is not taken: closed sets, so that each can be counted.

use std::fmt;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// Why a connection or a notice was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Refused {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Refused {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its word in answers, metrics and on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

refusals! {
    /// The connection comes from no peer's address.
    UnknownPeer = "unknown-peer",
    /// The other side has another key than its address should have.
    WrongKey = "wrong-key",
    /// TLS was not agreed upon for another reason.
    Handshake = "handshake",
    /// The other side has enough connections already.
    TooMany = "too-many-connections",
    /// Nothing came for too long, or a frame took too long.
    TooSlow = "too-slow",
    /// A frame is longer than any notice.
    Oversized = "oversized",
    /// The bytes are no notice.
    Malformed = "malformed",
    /// It is not signed, or not as it should be.
    BadSignature = "bad-signature",
    /// Another than who brought it signed it.
    WrongSigner = "wrong-signer",
    /// It is the gateway's own.
    OwnEcho = "own-echo",
    /// Its time is over.
    Expired = "expired",
    /// It was issued later than now, by more than clocks may differ.
    Future = "future",
    /// It was told before.
    Repeated = "repeated",
    /// It withdraws what is not known.
    Unknown = "unknown",
    /// It is about more than one address, or about a device.
    NotOneAddress = "not-one-address",
    /// No host outside can have the address.
    NotOutside = "not-outside",
    /// The address is on the protected side.
    Protected = "protected",
    /// The address is a never-block entry.
    NeverBlock = "never-block",
    /// The neighbour told more within an hour than one may.
    OverCap = "over-cap",
    /// Verdicts that neighbours asked for reached the blast radius.
    BlastRadius = "blast-radius",
    /// The address is under a verdict already.
    InForce = "in-force",
    /// An operator or a roll-back holds verdicts on the address back.
    OnHold = "on-hold",
    /// The verdict could not be carried out.
    Failed = "failed",
}

/// What became of a notice, as its issuer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The address is shut out.
    Taken,
    /// It was judged and is only observed.
    Observed,
    /// What the notice before did is undone.
    Withdrawn,
    /// Nothing changed.
    Refused(Refused),
}

impl Answer {
    /// Its word on the connection.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Observed => "observed",
            Self::Withdrawn => "withdrawn",
            Self::Refused(reason) => reason.name(),
        }
    }

    /// The word that a neighbour answered with, if this version knows it.
    pub fn word(bytes: &[u8]) -> Option<&'static str> {
        let refused = Refused::ALL.iter().map(|reason| Self::Refused(*reason));
        let all = [Self::Taken, Self::Observed, Self::Withdrawn].into_iter().chain(refused);
        all.map(Self::name).find(|word| word.as_bytes() == bytes)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
