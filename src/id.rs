//! Typed ids. All are UUIDs of version 7 (RFC 9562): they sort in the order they were made, which is what
//! pagination and the indexes rely on.

use std::fmt;

use uuid::Uuid;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, later in order than all made before it by this process.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "two defaults would differ")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Reads the hyphenated form of RFC 9562, in either case; anything else is `None`.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                // Uuid's own parser also takes braces, URNs and bare hex, which would give one id many URLs.
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
    /// A phone number a partner may send from.
    LineId
    /// An attachment.
    AttachmentId
    /// A chat.
    ChatId
    /// A participant of one chat.
    HandleId
    /// A message.
    MessageId
    /// An entry of the outbox.
    JobId
    /// An audit record.
    AuditId
}

impl AttachmentId {
    /// The id of what is made of this attachment's file: always the same, and no attachment's, as it is of version 8.
    #[must_use]
    pub fn made(self) -> Self {
        Self(uuid::Builder::from_bytes(self.0.into_bytes()).with_version(uuid::Version::Custom).into_uuid())
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
        for other in ["", "not-a-uuid", &text.replace('-', ""), &format!("{{{text}}}"), &format!("urn:uuid:{text}")] {
            assert_eq!(AttachmentId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_made_of_a_file_has_an_id_that_no_attachment_has() {
        let id = AttachmentId::new();
        assert_eq!((id.made(), id.made().made()), (id.made(), id.made()));
        assert_eq!(id.made().to_string(), format!("{}8{}", &id.to_string()[..14], &id.to_string()[15..]));
        assert_eq!(AttachmentId::parse(&id.made().to_string()), Some(id.made()));
    }

    #[test]
    fn ids_sort_as_they_were_made() {
        let ids: Vec<_> = (0..1000).map(|_| MessageId::new()).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().map(ToString::to_string).collect::<Vec<_>>().is_sorted());
    }
}
