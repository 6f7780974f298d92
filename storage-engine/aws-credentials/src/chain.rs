//! Which source gives credentials. The first that is configured decides: if it fails, that is the answer, since to go on would
//! be to act as somebody else (a pod whose STS is down for a moment would become its node).

use crate::http_client::HttpClient;
use crate::{Credentials, Environment, Error, Settings};
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider,
};
use reqsign_core::{Context, OsEnv, ProvideCredentialDyn, StaticEnv};
use reqsign_file_read_tokio::TokioFileRead;
use std::error::Error as _;
use std::fmt;

/// Where credentials come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    Environment,
    /// A section of `~/.aws/credentials` or `~/.aws/config`.
    Profile,
    /// `AWS_ROLE_ARN` with a token in `AWS_WEB_IDENTITY_TOKEN_FILE`, exchanged at STS.
    WebIdentity,
    /// The endpoint in `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `_FULL_URI`.
    Container,
    /// The instance's metadata service, version 2.
    Instance,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Source::Environment => "the environment",
            Source::Profile => "the profile",
            Source::WebIdentity => "web identity",
            Source::Container => "the container endpoint",
            Source::Instance => "instance metadata",
        })
    }
}

type Provider = Box<dyn ProvideCredentialDyn<Credential = Credential>>;

pub(crate) struct Chain {
    context: Context,
    sources: Vec<(Source, Provider)>,
    /// A profile that was asked for by name.
    profile: Option<String>,
}

impl Chain {
    pub(crate) fn new(settings: &Settings) -> Self {
        let context = Context::new().with_file_read(TokioFileRead);
        let context = match &settings.environment {
            Environment::Process => context.with_env(OsEnv),
            Environment::Given { variables, home } => context.with_env(StaticEnv {
                home_dir: home.clone(),
                envs: variables.clone(),
            }),
        };
        let sts = context.env_var("AWS_ENDPOINT_URL_STS").filter(|url| !url.is_empty());
        let context = context.with_http_send(HttpClient::new(sts));
        let sources = match &settings.profile {
            Some(name) => vec![profile(ProfileCredentialProvider::new().with_profile(name))],
            None => all_sources(&context),
        };
        Chain {
            context,
            sources,
            profile: settings.profile.clone(),
        }
    }

    pub(crate) async fn fetch(&self) -> Result<(Credentials, Source), Error> {
        for (source, provider) in &self.sources {
            match provider.provide_credential_dyn(&self.context).await {
                Ok(Some(credential)) => return Ok((translate(*source, credential)?, *source)),
                Ok(None) => {}
                Err(error) => return Err(Error::Failed(*source, describe(&error))),
            }
        }
        match &self.profile {
            Some(name) => Err(Error::Failed(Source::Profile, format!("{name:?} has no keys"))),
            None => Err(Error::None),
        }
    }
}

fn profile(provider: ProfileCredentialProvider) -> (Source, Provider) {
    (Source::Profile, Box::new(provider))
}

fn all_sources(context: &Context) -> Vec<(Source, Provider)> {
    let mut sources: Vec<(Source, Provider)> = vec![
        (Source::Environment, Box::new(EnvCredentialProvider::new())),
        profile(ProfileCredentialProvider::new()),
    ];
    let mut web_identity = AssumeRoleWithWebIdentityCredentialProvider::new();
    if context.env_var("AWS_ROLE_SESSION_NAME").is_none() {
        web_identity = web_identity.with_role_session_name("kafscale".to_string());
    }
    sources.push((Source::WebIdentity, Box::new(web_identity)));
    sources.push((Source::Container, Box::new(ECSCredentialProvider::new())));
    sources.push((Source::Instance, Box::new(IMDSv2CredentialProvider::new())));
    sources
}

fn translate(source: Source, credential: Credential) -> Result<Credentials, Error> {
    if credential.access_key_id.is_empty() || credential.secret_access_key.is_empty() {
        return Err(Error::Failed(source, "an answer without keys".to_string()));
    }
    Ok(Credentials {
        access_key: credential.access_key_id,
        secret_key: credential.secret_access_key,
        session_token: credential.session_token.filter(|token| !token.is_empty()),
        expires: credential.expires_in.map(|expires| expires.as_system_time()),
    })
}

/// What went wrong, and what was behind it.
fn describe(error: &reqsign_core::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
