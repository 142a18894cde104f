//! Parses handles: phone numbers and e-mail addresses.

use std::fmt;

/// Maximum length of an e-mail address (RFC 5321 section 4.5.3.1.3, without the angle brackets).
const MAX_EMAIL_LENGTH: usize = 254;

/// A phone number in E.164 form: `+`, no leading zero, 2 to 15 digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhoneNumber(String);

impl PhoneNumber {
    /// Parses `^\+[1-9][0-9]{1,14}$`; returns `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+')?.as_bytes();
        let well_formed = (2..=15).contains(&digits.len())
            && digits[0] != b'0'
            && digits.iter().all(u8::is_ascii_digit);
        well_formed.then(|| Self(text.to_owned()))
    }

    /// Returns the number in E.164 form, including the `+`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A recipient: a phone number, or an e-mail address in lowercase.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient(String);

impl Recipient {
    /// Parses an E.164 number or an e-mail address; returns `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(number) = PhoneNumber::parse(text) {
            return Some(Self(number.0));
        }
        let (local, domain) = text.split_once('@')?;
        let well_formed = text.len() <= MAX_EMAIL_LENGTH
            && !local.is_empty()
            && domain.split('.').all(|label| !label.is_empty())
            && text.matches('@').count() == 1
            && !text
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || "<>(),;:\\\"[]".contains(c));
        well_formed.then(|| Self(text.to_lowercase()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_numbers_are_e164() {
        for good in ["+12025550100", "+11", "+123456789012345"] {
            assert!(PhoneNumber::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "+",
            "+1",
            "12025550100",
            "+02025550100",
            "+1234567890123456",
            "+1202 5550100",
            "+1٢٣",
            "+1a",
        ] {
            assert!(PhoneNumber::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn recipients_may_be_addresses() {
        assert_eq!(
            Recipient::parse("Ann@Example.com")
                .expect("address")
                .as_str(),
            "ann@example.com"
        );
        for bad in [
            "",
            "ann",
            "@example.com",
            "ann@",
            "a@b@c",
            "a b@example.com",
            "a@example..com",
            "2025550100",
        ] {
            assert!(Recipient::parse(bad).is_none(), "{bad}");
        }
    }
}
