//! Why a page is not shown.

use axum::http::StatusCode;

use crate::api::ApiError;
use crate::session::SealError;

/// Why a page is not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API refuses.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The database of sessions fails.
    #[error("the listener's database does not answer: sessions are kept there")]
    Database(#[from] sqlx::Error),
    /// The session cannot be kept.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The console is off, or the listener is not running.
    #[error(
        "the console is off, or the listener is not running: see /readyz of its port for health checks"
    )]
    Off,
    /// There is no such page.
    #[error("there is no such page")]
    NotFound,
    /// The form does not come from a page of the console.
    #[error("the form was not sent by a page of this console, so nothing was done")]
    CrossOrigin,
    /// The console is read-only.
    #[error("this console is read-only: nobody changes anything here")]
    ReadOnly,
    /// The caller may only look.
    #[error("you may look at everything here, and change nothing: this needs the role Operate")]
    OnlyRead,
    /// The form is wrong.
    #[error("{0}")]
    Form(String),
}

impl Failure {
    /// Returns the status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Api(error) => error.status,
            Self::Database(_) | Self::Off => StatusCode::SERVICE_UNAVAILABLE,
            Self::Seal(SealError::Cipher) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Seal(SealError::TooLong) | Self::Form(_) => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::CrossOrigin | Self::ReadOnly | Self::OnlyRead => StatusCode::FORBIDDEN,
        }
    }
}
