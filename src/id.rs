//! Defines a distinct type for each kind of id. All ids are `UUIDv7` (RFC 9562), which sort by
//! creation time; pagination and indexes rely on that order.

use std::fmt;

use uuid::Uuid;

/// Returns random bytes from a cryptographically secure generator.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the only source of randomness")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    rand::random()
}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Generates an id that sorts after all ids that this process has generated before.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "two defaults would differ")]
            #[expect(clippy::disallowed_methods, reason = "the only generator of ids")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Parses the hyphenated form of RFC 9562, in either case; returns `None` for anything
            /// else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                // `Uuid` also parses braces, URNs and bare hexadecimal, which would give one id
                // several URLs.
                (text.len() == 36).then(|| Uuid::try_parse(text).ok().map(Self)).flatten()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    )*};
}

id! {
    /// A partner: the account behind one or more API keys.
    PartnerId
    /// A line: a phone number that a partner is allowed to send from.
    LineId
    AttachmentId
    /// A blob: the bytes of an upload or of a variant. Attachments with equal bytes can share a
    /// blob.
    BlobId
    ChatId
    /// A participant of one chat.
    HandleId
    MessageId
    OutboxEntryId
    /// An audit record.
    AuditId
}

impl AttachmentId {
    /// Returns the id of the blob that this attachment's upload is stored as: the same UUID.
    #[must_use]
    pub fn blob_id(self) -> BlobId {
        BlobId(self.0)
    }

    /// Returns the id of the blob that a variant of this attachment's upload is stored as. It is
    /// deterministic, and its UUID version 8 keeps it distinct from the ids of uploads.
    #[must_use]
    pub fn variant_blob_id(self) -> BlobId {
        BlobId(
            uuid::Builder::from_bytes(self.0.into_bytes())
                .with_version(uuid::Version::Custom)
                .into_uuid(),
        )
    }
}

impl BlobId {
    /// Returns the id of the attachment that the blob was uploaded for. No attachment has that id
    /// if the blob is a variant.
    #[must_use]
    pub fn attachment_id(self) -> AttachmentId {
        AttachmentId(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = AttachmentId::new();
        let text = id.to_string();
        assert_eq!(AttachmentId::parse(&text), Some(id));
        assert_eq!(AttachmentId::parse(&text.to_uppercase()), Some(id));
        for other in [
            "",
            "not-a-uuid",
            &text.replace('-', ""),
            &format!("{{{text}}}"),
            &format!("urn:uuid:{text}"),
        ] {
            assert_eq!(AttachmentId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn variant_blob_id_is_deterministic_and_distinct() {
        let id = AttachmentId::new();
        assert_eq!(id.variant_blob_id(), id.variant_blob_id());
        assert_ne!(id.variant_blob_id(), id.blob_id());
        assert_eq!(
            id.variant_blob_id().to_string(),
            format!("{}8{}", &id.to_string()[..14], &id.to_string()[15..])
        );
        let text = id.variant_blob_id().to_string();
        assert_eq!(BlobId::parse(&text), Some(id.variant_blob_id()));
    }

    #[test]
    fn ids_sort_by_creation_order() {
        let ids: Vec<_> = (0..1000).map(|_| MessageId::new()).collect();
        assert!(ids.is_sorted());
        assert!(
            ids.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .is_sorted()
        );
    }
}
