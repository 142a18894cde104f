//! Maps S3 errors to error texts that name a remedy and contain no secrets. The texts contain
//! neither URLs, whose queries are signed, nor the credentials that a bucket may echo.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap};
use reqwest::{Response, StatusCode};

use super::super::Error;
use crate::clock::system_time;

/// Read limit for the XML body of an error, in bytes.
const MAX_XML: usize = 64 * 1024;
/// Clock skew above which an error text mentions the skew. Amazon S3 rejects all signatures at 15
/// minutes.
const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);

/// Converts a transport error, after which there is no response, to an [`Error`].
pub(super) fn from_transport(action: &'static str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        problem = format!("{problem}: {cause}");
        source = cause.source();
    }
    Error::Unavailable { action, problem }
}

/// Converts an error response to an [`Error`].
pub(super) async fn from_response(action: &'static str, mut response: Response) -> Error {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut xml = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        xml.extend_from_slice(&chunk);
        if xml.len() > MAX_XML {
            break;
        }
    }
    from_xml(action, status, &headers, &String::from_utf8_lossy(&xml))
}

/// Converts an error response whose body has been read to an [`Error`].
pub(super) fn from_xml(
    action: &'static str,
    status: StatusCode,
    headers: &HeaderMap,
    xml: &str,
) -> Error {
    // Responses to HEAD have no body.
    let code = element(xml, "Code").unwrap_or_default();
    let transient_codes = [
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
    ];
    if status == StatusCode::PRECONDITION_FAILED || code == "PreconditionFailed" {
        return Error::PreconditionFailed;
    }
    if code == "NoSuchKey" || (status == StatusCode::NOT_FOUND && code.is_empty()) {
        return Error::NotFound;
    }
    if status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || transient_codes.contains(&code)
    {
        return Error::Unavailable {
            action,
            problem: format!("the bucket answered {} {code}", status.as_u16()),
        };
    }
    let hint = hint(status, code, headers, xml)
        .map(|hint| format!(": {hint}"))
        .unwrap_or_default();
    Error::Rejected {
        action,
        status: status.as_u16(),
        code: code.to_owned(),
        hint,
    }
}

fn hint(status: StatusCode, code: &str, headers: &HeaderMap, xml: &str) -> Option<String> {
    if let Some(skew) = clock_skew(headers).filter(|skew| *skew > MAX_CLOCK_SKEW) {
        return Some(format!(
            "the clock of this machine differs from the bucket's by {} s, but signatures are valid for minutes only; \
             correct it",
            skew.as_secs()
        ));
    }
    let region =
        element(xml, "Region").or_else(|| headers.get("x-amz-bucket-region")?.to_str().ok());
    Some(match (code, region) {
        ("NoSuchBucket", _) => {
            "there is no such bucket; create it, or correct its name, endpoint or region in HAVERSACK_BLOBS_URL"
                .to_owned()
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "TemporaryRedirect", Some(region)) => {
            format!("the bucket is in another region; set region={region} in HAVERSACK_BLOBS_URL")
        }
        (_, Some(region)) if status.is_redirection() => {
            format!("the bucket is in another region; set region={region} in HAVERSACK_BLOBS_URL")
        }
        (
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "IllegalLocationConstraintException",
            None,
        ) => "the region may be wrong; set region=... in HAVERSACK_BLOBS_URL".to_owned(),
        ("InvalidAccessKeyId" | "NotSignedUp", _) => "the bucket does not know the key in AWS_ACCESS_KEY_ID".to_owned(),
        ("SignatureDoesNotMatch", _) => {
            "AWS_SECRET_ACCESS_KEY does not belong to the access key, or the region is wrong".to_owned()
        }
        ("ExpiredToken" | "InvalidToken", _) => "AWS_SESSION_TOKEN has expired or is wrong; get new credentials".to_owned(),
        ("AccessDenied", _) => ALLOW.to_owned(),
        _ if status == StatusCode::FORBIDDEN => ALLOW.to_owned(),
        _ => return None,
    })
}

const ALLOW: &str = "the credentials need s3:GetObject, s3:PutObject and s3:DeleteObject on the objects below the prefix, and \
                     s3:ListBucket on the bucket";

fn clock_skew(headers: &HeaderMap) -> Option<Duration> {
    let theirs = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let ours = system_time();
    Some(
        ours.duration_since(theirs)
            .unwrap_or_else(|ahead| ahead.duration()),
    )
}

/// Returns the text of the first element with this name, if it consists of harmless characters
/// only.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let text = rest.split_once('<')?.0.trim();
    (!text.is_empty()
        && text.len() <= 100
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)))
    .then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(status: u16, headers: &[(&'static str, &str)], xml: &str) -> Error {
        let headers = headers.iter().map(|(name, value)| {
            (
                reqwest::header::HeaderName::from_static(name),
                value.parse().expect("value"),
            )
        });
        from_xml(
            "write an object",
            StatusCode::from_u16(status).expect("status"),
            &headers.collect(),
            xml,
        )
    }

    #[test]
    fn error_text_contains_a_remedy_and_no_secret() {
        let error = |code: &str| {
            format!("<Error><Code>{code}</Code><Message>Secret things</Message></Error>")
        };
        for (status, code, remedy) in [
            (404, "NoSuchBucket", "create it"),
            (403, "AccessDenied", "s3:PutObject"),
            (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            (400, "AuthorizationHeaderMalformed", "region=..."),
        ] {
            let text = map(status, &[], &error(code)).to_string();
            assert!(
                text.contains(remedy) && text.contains(code) && !text.contains("Secret"),
                "{text}"
            );
        }
        let elsewhere = map(301, &[("x-amz-bucket-region", "eu-west-3")], "");
        assert!(
            elsewhere.to_string().contains("region=eu-west-3"),
            "{elsewhere}"
        );
        let elsewhere =
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>";
        assert!(
            map(400, &[], elsewhere)
                .to_string()
                .contains("region=eu-west-3")
        );
        let skewed = map(
            403,
            &[("date", "Thu, 15 Jan 2015 10:45:00 GMT")],
            &error("RequestTimeTooSkewed"),
        );
        assert!(skewed.to_string().contains("clock"), "{skewed}");
    }

    #[test]
    fn transient_errors_are_distinguished_from_permanent_ones() {
        assert!(map(503, &[], "<Error><Code>SlowDown</Code></Error>").is_transient());
        assert!(map(429, &[], "").is_transient());
        assert!(map(200, &[], "<Error><Code>InternalError</Code></Error>").is_transient());
        assert!(matches!(map(412, &[], ""), Error::PreconditionFailed));
        assert!(matches!(
            map(404, &[], "<Error><Code>NoSuchKey</Code></Error>"),
            Error::NotFound
        ));
        assert!(matches!(
            map(404, &[], "<Error><Code>NoSuchBucket</Code></Error>"),
            Error::Rejected { .. }
        ));
        assert!(matches!(map(403, &[], ""), Error::Rejected { .. }));
    }
}
