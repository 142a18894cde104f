//! Validates fields that several bodies and queries share.

use crate::domain::chat::{MAX_RECIPIENTS, Recipients};
use crate::domain::handle::{PhoneNumber, Recipient};
use crate::http::error::ApiError;
use crate::id::AttachmentId;
use crate::quote::quoted;

/// Maximum number of entries in a list of phone numbers, including duplicates.
pub(super) const MAX_LISTED: usize = 1000;

/// Rejects a missing or empty string.
pub(super) fn required(value: Option<String>, field: &'static str) -> Result<String, ApiError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or(ApiError::MissingField(field))
}

pub(super) fn phone_number(value: &str, field: &'static str) -> Result<PhoneNumber, ApiError> {
    PhoneNumber::parse(value).ok_or_else(|| ApiError::InvalidNumber {
        field,
        value: value.to_owned(),
    })
}

pub(super) fn attachment_id(text: &str) -> Result<AttachmentId, ApiError> {
    AttachmentId::parse(text).ok_or_else(|| {
        ApiError::InvalidParameter(format!("attachment_id {} is not a UUID", quoted(text)))
    })
}

/// Rejects a list with more than [`MAX_LISTED`] entries.
pub(super) fn check_length(list: &[String], field: &str) -> Result<(), ApiError> {
    if list.len() > MAX_LISTED {
        return Err(ApiError::InvalidParameter(format!(
            "{field} has more than {MAX_LISTED} entries"
        )));
    }
    Ok(())
}

/// Rejects a missing or empty list of recipients.
pub(super) fn required_recipients(to: Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    to.filter(|to| !to.is_empty())
        .ok_or(ApiError::MissingField("to"))
}

/// Parses a list of recipients, given as phone numbers or e-mail addresses. Duplicates are dropped.
pub(super) fn recipients(to: Vec<String>) -> Result<Recipients, ApiError> {
    check_length(&to, "to")?;
    let parse = |value: String| {
        Recipient::parse(&value).ok_or(ApiError::InvalidNumber { field: "to", value })
    };
    let recipients = Recipients::new(to.into_iter().map(parse).collect::<Result<_, _>>()?);
    if recipients.as_slice().len() > MAX_RECIPIENTS {
        return Err(ApiError::InvalidParameter(format!(
            "to holds more than {MAX_RECIPIENTS} recipients"
        )));
    }
    Ok(recipients)
}

/// Restores the leading `+` of a phone number in a query, where it may be missing or decoded as a
/// space.
pub(super) fn with_plus(number: &str) -> String {
    let digits = number.trim();
    if digits.starts_with(|first: char| first.is_ascii_digit()) {
        format!("+{digits}")
    } else {
        digits.to_owned()
    }
}

/// Parses a participant in a query, given as a phone number or an e-mail address.
pub(super) fn participant(value: &str) -> Result<String, ApiError> {
    let value = if value.contains('@') {
        value.replace(' ', "+")
    } else {
        with_plus(value)
    };
    Recipient::parse(&value)
        .map(|recipient| recipient.to_string())
        .ok_or(ApiError::InvalidNumber { field: "to", value })
}
