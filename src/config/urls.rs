//! Declares the settings for the server's own URLs.

use clap::Args;

use crate::domain::base_url::BaseUrl;

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Public URLs")]
pub struct UrlConfig {
    /// Base of API and upload URLs; by default `http://` and the listen address
    #[arg(long)]
    pub public_url: Option<BaseUrl>,
    /// Base of file URLs, by default the public URL; requests for a host of its own get files only
    #[arg(long)]
    pub cdn_url: Option<BaseUrl>,
}
