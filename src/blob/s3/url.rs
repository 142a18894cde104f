//! Parses bucket URLs: `s3://bucket/prefix?region=...&endpoint=...`. What a URL omits is read from
//! the environment variables of AWS tools.

use url::Url;

use super::{S3Config, S3Credentials, S3Style};

/// Length that a prefix must stay below, in bytes, so that with the longest file path an object key
/// has at most 1024 bytes.
const MAX_PREFIX: usize = 100;
/// Default region of AWS tools.
const DEFAULT_REGION: &str = "us-east-1";

/// Parses the URL of a bucket. `variable` returns environment variables. The errors do not quote
/// what may be a secret.
pub(crate) fn parse(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<S3Config, String> {
    let url = Url::parse(text).map_err(|error| format!("it is not a URL ({error})"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "credentials do not belong in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and \
             remove them"
                .to_owned(),
        );
    }
    if url.port().is_some() || url.fragment().is_some() {
        return Err(
            "s3://bucket/prefix takes no port and no #; a server of your own is named by \
             ?endpoint=http://host:port"
                .to_owned(),
        );
    }
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
    let bucket = bucket.ok_or("it names no bucket; use s3://bucket/prefix")?;
    let prefix = prefix(&url)?;
    let mut query = Query::parse(&url)?;

    let variable = |name: &str| {
        variable(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    let region = query
        .region
        .take()
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
    if !region
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    {
        return Err(format!("{region:?} is not a region such as eu-central-1"));
    }
    let endpoint = query
        .endpoint
        .or_else(|| variable("AWS_ENDPOINT_URL_S3"))
        .or_else(|| variable("AWS_ENDPOINT_URL"));
    let style = query
        .style
        .unwrap_or(match (&endpoint, bucket.contains('.')) {
            // Wildcard certificates do not match a bucket name with dots.
            (None, false) => S3Style::Virtual,
            _ => S3Style::Path,
        });
    let endpoint = endpoint.unwrap_or_else(|| {
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        format!("https://s3.{region}.amazonaws.com{china}")
    });
    let endpoint = Url::parse(&endpoint)
        .ok()
        .filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.query().is_none()
        })
        .ok_or(
            "the endpoint (here or in AWS_ENDPOINT_URL_S3) must be like https://s3.example.com",
        )?;
    let required = |name: &str| {
        variable(name).ok_or_else(|| {
            format!("a bucket needs credentials: set the environment variable {name}")
        })
    };
    let key = required("AWS_ACCESS_KEY_ID")?;
    let secret = required("AWS_SECRET_ACCESS_KEY")?;
    let credentials = S3Credentials::new(&key, &secret, variable("AWS_SESSION_TOKEN").as_deref());
    S3Config::new(endpoint, style, bucket, region, prefix, credentials)
}

/// Returns the prefix of object keys, which is the path of the URL.
fn prefix(url: &Url) -> Result<String, String> {
    let path = percent_encoding::percent_decode_str(url.path())
        .decode_utf8()
        .map_err(|_| {
            "the prefix is not UTF-8; use letters, digits, - and _, with / between them".to_owned()
        })?;
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    if path.len() >= MAX_PREFIX {
        return Err(format!(
            "the prefix has {} bytes; it must have less than {MAX_PREFIX}",
            path.len()
        ));
    }
    if path
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
        || path.chars().any(char::is_control)
    {
        return Err(format!(
            "{path:?} cannot be a prefix; use names with / between them"
        ));
    }
    Ok(format!("{path}/"))
}

#[derive(Default)]
struct Query {
    region: Option<String>,
    endpoint: Option<String>,
    style: Option<S3Style>,
}

impl Query {
    fn parse(url: &Url) -> Result<Self, String> {
        let mut query = Self::default();
        for (name, value) in url.query_pairs() {
            match &*name {
                "region" => query.region = Some(value.into_owned()),
                "endpoint" => query.endpoint = Some(value.into_owned()),
                "style" => {
                    query.style = Some(match &*value {
                        "path" => S3Style::Path,
                        "virtual" => S3Style::Virtual,
                        other => return Err(format!("style is path or virtual, not {other:?}")),
                    });
                }
                other => {
                    return Err(format!(
                        "{other:?} is not known; there are region, endpoint and style"
                    ));
                }
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let known = [
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
        ];
        let variable = |name: &str| {
            let all = variables.iter().chain(&known);
            all.filter(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
                .next()
        };
        parse(text, &variable).map(|config| config.location())
    }

    #[test]
    fn bucket_location_follows_url_and_variables() {
        for (text, variables, place) in [
            (
                "s3://pack",
                &[][..],
                "https://pack.s3.us-east-1.amazonaws.com/ in region us-east-1",
            ),
            (
                "s3://pack/a/b/?region=eu-west-3",
                &[],
                "https://pack.s3.eu-west-3.amazonaws.com/a/b/ in region eu-west-3",
            ),
            (
                "s3://pack.example/",
                &[],
                "https://s3.us-east-1.amazonaws.com/pack.example/ in region us-east-1",
            ),
            (
                "s3://pack",
                &[("AWS_REGION", "a-1"), ("AWS_DEFAULT_REGION", "b-1")],
                "https://pack.s3.a-1.amazonaws.com/ in region a-1",
            ),
            (
                "s3://pack",
                &[("AWS_REGION", " "), ("AWS_DEFAULT_REGION", "b-1")],
                "https://pack.s3.b-1.amazonaws.com/ in region b-1",
            ),
            (
                "s3://pack?region=cn-north-1",
                &[],
                "https://pack.s3.cn-north-1.amazonaws.com.cn/ in region cn-north-1",
            ),
            (
                "s3://pack/x?endpoint=http://127.0.0.1:9000",
                &[],
                "http://127.0.0.1:9000/pack/x/ in region us-east-1",
            ),
            (
                "s3://pack?endpoint=https://r.example&style=virtual",
                &[],
                "https://pack.r.example/ in region us-east-1",
            ),
            (
                "s3://pack",
                &[
                    ("AWS_ENDPOINT_URL", "http://a:1"),
                    ("AWS_ENDPOINT_URL_S3", "http://b:1"),
                ],
                "http://b:1/pack/ in region us-east-1",
            ),
        ] {
            assert_eq!(read(text, variables).as_deref(), Ok(place), "{text}");
        }
    }

    #[test]
    fn invalid_url_is_reported_without_secrets() {
        for (text, variables, part) in [
            ("s3://", &[][..], "names no bucket"),
            ("s3://AKIDEXAMPLE:hush@pack", &[], "do not belong"),
            ("s3://pack:9000", &[], "endpoint"),
            ("s3://pack?regio=x", &[], "\"regio\""),
            ("s3://pack?style=host", &[], "path or virtual"),
            ("s3://pack?region=eu west", &[], "not a region"),
            (
                "s3://pack?endpoint=minio:9000",
                &[],
                "https://s3.example.com",
            ),
            (
                "s3://pack?endpoint=http://127.0.0.1:1&style=virtual",
                &[],
                "style=path",
            ),
            ("s3://pack/a//b", &[], "prefix"),
            (
                "s3://pack",
                &[("AWS_SECRET_ACCESS_KEY", "")],
                "AWS_SECRET_ACCESS_KEY",
            ),
            (
                "s3://pack",
                &[("AWS_ACCESS_KEY_ID", "")],
                "AWS_ACCESS_KEY_ID",
            ),
        ] {
            let error = read(text, variables).expect_err(text);
            assert!(
                error.contains(part) && !error.contains("hush"),
                "{text}: {error}"
            );
        }
        let long = format!("s3://pack/{}", "a".repeat(MAX_PREFIX));
        assert!(
            read(&long, &[])
                .expect_err("long")
                .contains("less than 100")
        );
    }

    #[test]
    fn debug_output_omits_credentials() {
        let secrets = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
        ];
        let variable = |name: &str| secrets.contains(&name).then(|| "hush".to_owned());
        let config = parse("s3://pack", &variable).expect("config");
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    }
}
