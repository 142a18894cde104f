//! Lists the partner's phone numbers at `/v3/phone_numbers`, and at `/v3/phonenumbers` for older
//! clients.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::error::ApiError;
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;

const HEALTH_DOC: &str = "https://docs.linqapp.com/guides/phone-numbers/reputation#healthy";

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(list_deprecated))
}

/// Your phone numbers.
#[derive(Serialize, ToSchema)]
struct PhoneNumberList {
    phone_numbers: Vec<PhoneNumberBody>,
}

/// A phone number you can send from.
#[derive(Serialize, ToSchema)]
struct PhoneNumberBody {
    id: String,
    phone_number: String,
    forwarding_number: Option<String>,
    line_type: &'static str,
    reputation: ReputationBody,
    /// Equal to `reputation`, under the name that the TypeScript client reads.
    health_status: ReputationBody,
}

/// The reputation of a phone number with carriers.
#[derive(Serialize, ToSchema)]
struct ReputationBody {
    status: &'static str,
    doc_url: &'static str,
}

/// Your phone numbers, in the format of older clients.
#[derive(Serialize, ToSchema)]
struct DeprecatedPhoneNumberList {
    phone_numbers: Vec<DeprecatedPhoneNumberBody>,
}

/// A phone number, in the format of older clients.
#[derive(Serialize, ToSchema)]
struct DeprecatedPhoneNumberBody {
    id: String,
    phone_number: String,
    r#type: Option<String>,
    country_code: Option<String>,
    capabilities: Capabilities,
}

/// The capabilities of a phone number.
#[derive(Serialize, ToSchema)]
struct Capabilities {
    mms: bool,
    sms: bool,
    voice: bool,
}

/// Lists your phone numbers.
#[utoipa::path(get, path = "/v3/phone_numbers", tag = "Phone numbers",
    responses((status = 200, body = PhoneNumberList)))]
async fn list(
    State(state): State<HttpState>,
    Caller(partner): Caller,
) -> Result<Json<PhoneNumberList>, ApiError> {
    let reputation = || ReputationBody {
        status: "HEALTHY",
        doc_url: HEALTH_DOC,
    };
    let lines = state.partners.lines(partner).await?;
    let phone_numbers = lines.into_iter().map(|line| PhoneNumberBody {
        id: line.id.to_string(),
        phone_number: line.phone_number.to_string(),
        forwarding_number: None,
        line_type: "iMessage",
        reputation: reputation(),
        health_status: reputation(),
    });
    Ok(Json(PhoneNumberList {
        phone_numbers: phone_numbers.collect(),
    }))
}

/// Lists your phone numbers in the format of older clients.
#[utoipa::path(get, path = "/v3/phonenumbers", tag = "Phone numbers",
    responses((status = 200, body = DeprecatedPhoneNumberList)))]
async fn list_deprecated(
    State(state): State<HttpState>,
    Caller(partner): Caller,
) -> Result<Json<DeprecatedPhoneNumberList>, ApiError> {
    let lines = state.partners.lines(partner).await?;
    let phone_numbers = lines.into_iter().map(|line| DeprecatedPhoneNumberBody {
        id: line.id.to_string(),
        phone_number: line.phone_number.to_string(),
        r#type: None,
        country_code: None,
        capabilities: Capabilities {
            mms: true,
            sms: true,
            voice: false,
        },
    });
    Ok(Json(DeprecatedPhoneNumberList {
        phone_numbers: phone_numbers.collect(),
    }))
}
