//! Each source against an endpoint on loopback that plays its part.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is how a test fails.

use kafscale_aws_credentials::{Credentials, Environment, Error, Refresher, Settings, Source};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
struct Asked {
    /// Method and path.
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

/// An HTTP server that answers as `answer` says, and notes what it was asked.
struct Endpoint {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Endpoint {
    fn new(answer: impl Fn(&Asked, usize) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = asked.clone();
        // The thread ends with the process: nobody connects any more.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&mut BufReader::new(&stream));
                let number = seen.lock().unwrap().len();
                let (status, body) = answer(&request, number);
                seen.lock().unwrap().push(request);
                let head = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).unwrap();
            }
        });
        Endpoint { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &mut impl BufRead) -> Asked {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_string());
    }
    let line = lines[0].trim_end_matches(" HTTP/1.1").to_string();
    let headers: HashMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_string()))
        .collect();
    let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    Asked { line, headers, body }
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    let mut variables: HashMap<String, String> = variables
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    // No test asks the metadata service of the machine that it runs on.
    variables
        .entry("AWS_EC2_METADATA_SERVICE_ENDPOINT".to_string())
        .or_insert("http://127.0.0.1:1".to_string());
    Settings {
        profile: None,
        environment: Environment::Given {
            variables,
            home: Some(PathBuf::from("/nowhere")),
        },
    }
}

fn start(settings: Settings) -> Result<(Credentials, Source, Refresher, Receiver<Credentials>), Error> {
    let (sender, receiver) = channel();
    let (credentials, source, refresher) = Refresher::start(settings, move |fresh| {
        let _ = sender.send(fresh);
    })?;
    Ok((credentials, source, refresher, receiver))
}

fn first(settings: Settings) -> (Credentials, Source) {
    let (credentials, source, _, _) = start(settings).unwrap();
    (credentials, source)
}

/// In so many seconds, as AWS writes it.
fn in_seconds(seconds: u64) -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = since.as_secs() + seconds;
    let (days, rest) = ((at / 86400) as i64, at % 86400);
    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn answer(key: &str, seconds: u64) -> String {
    format!(
        r#"{{"Code": "Success", "AccessKeyId": "{key}", "SecretAccessKey": "secret", "Token": "token", "Expiration": "{}"}}"#,
        in_seconds(seconds)
    )
}

fn metadata(key: &'static str) -> Endpoint {
    Endpoint::new(move |request, _| match request.line.as_str() {
        "PUT /latest/api/token" => (200, "session".to_string()),
        _ if request.headers.get("x-aws-ec2-metadata-token").map(String::as_str) != Some("session") => {
            (401, String::new())
        }
        "GET /latest/meta-data/iam/security-credentials/" => (200, "role".to_string()),
        "GET /latest/meta-data/iam/security-credentials/role" => (200, answer(key, 3600)),
        _ => (404, String::new()),
    })
}

fn assert_temporary(credentials: &Credentials, key: &str) {
    assert_eq!(
        (credentials.access_key.as_str(), credentials.secret_key.as_str()),
        (key, "secret")
    );
    assert_eq!(credentials.session_token.as_deref(), Some("token"));
    let left = credentials.expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!((3500..=3600).contains(&left.as_secs()), "{left:?}");
}

#[test]
fn the_environment_comes_first() {
    let elsewhere = metadata("instance");
    let (credentials, source) = first(settings(&[
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &elsewhere.url),
    ]));
    assert_eq!((credentials.access_key.as_str(), source), ("id", Source::Environment));
    assert_eq!((credentials.session_token, credentials.expires), (None, None));
    assert_eq!(elsewhere.asked().len(), 0);
}

#[test]
fn a_profile_is_read_from_its_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials");
    let text = "[default]\naws_access_key_id = a\naws_secret_access_key = s\n\
                [other]\naws_access_key_id = b\naws_secret_access_key = t\n";
    std::fs::write(&file, text).unwrap();
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())];
    let (credentials, source) = first(settings(&variables));
    assert_eq!((credentials.access_key.as_str(), source), ("a", Source::Profile));
    let other = Settings {
        profile: Some("other".to_string()),
        ..settings(&variables)
    };
    assert_eq!(first(other).0.access_key, "b");
}

#[test]
fn a_profile_that_was_asked_for_is_there_or_it_is_an_error() {
    let elsewhere = metadata("instance");
    let missing = Settings {
        profile: Some("missing".to_string()),
        ..settings(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &elsewhere.url)])
    };
    let error = start(missing).unwrap_err();
    assert!(
        matches!(&error, Error::Failed(Source::Profile, why) if why.contains("missing")),
        "{error}"
    );
    assert_eq!(elsewhere.asked().len(), 0);
}

#[test]
fn instance_metadata_is_asked_with_a_session_token() {
    let endpoint = metadata("instance");
    let (credentials, source) = first(settings(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint.url)]));
    assert_eq!(source, Source::Instance);
    assert_temporary(&credentials, "instance");
    let asked = endpoint.asked();
    assert_eq!(asked[0].line, "PUT /latest/api/token");
    assert!(asked[0].headers.contains_key("x-aws-ec2-metadata-token-ttl-seconds"));
}

#[test]
fn a_container_is_asked_with_the_token_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "allowed\n").unwrap();
    let endpoint = Endpoint::new(
        |request, _| match request.headers.get("authorization").map(String::as_str) {
            Some("allowed") if request.line == "GET /v1/credentials" => (200, answer("container", 3600)),
            _ => (403, String::new()),
        },
    );
    let (credentials, source) = first(settings(&[
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &format!("{}/v1/credentials", endpoint.url),
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap()),
    ]));
    assert_eq!(source, Source::Container);
    assert_temporary(&credentials, "container");
}

fn sts_answer(key: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>\
         <SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>",
        in_seconds(3600)
    )
}

fn web_identity(endpoint: &Endpoint, file: &str, instance: &str) -> Settings {
    settings(&[
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/kafscale"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
        ("AWS_ENDPOINT_URL_STS", &endpoint.url),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance),
    ])
}

#[test]
fn a_web_identity_is_exchanged_at_sts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "identity").unwrap();
    let sts = Endpoint::new(|_, _| (200, sts_answer("web")));
    let (credentials, source) = first(web_identity(&sts, file.to_str().unwrap(), "http://127.0.0.1:1"));
    assert_eq!(source, Source::WebIdentity);
    assert_temporary(&credentials, "web");
    let asked = &sts.asked()[0];
    assert_eq!(asked.line, "POST /");
    for part in [
        "Action=AssumeRoleWithWebIdentity",
        "WebIdentityToken=identity",
        "RoleSessionName=kafscale",
    ] {
        assert!(asked.body.contains(part), "{}", asked.body);
    }
}

#[test]
fn whose_source_fails_does_not_become_somebody_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "identity").unwrap();
    let sts = Endpoint::new(|_, _| (503, "busy".to_string()));
    let instance = metadata("node");
    let error = start(web_identity(&sts, file.to_str().unwrap(), &instance.url)).unwrap_err();
    assert!(matches!(error, Error::Failed(Source::WebIdentity, _)), "{error}");
    assert!(
        !error.to_string().contains("identity\""),
        "tokens stay out of messages: {error}"
    );
    assert_eq!(instance.asked().len(), 0);
}

#[test]
fn who_is_nobody_is_told_where_it_was_looked() {
    let error = start(settings(&[("AWS_EC2_METADATA_DISABLED", "true")])).unwrap_err();
    assert!(matches!(error, Error::None), "{error}");
    let error = start(settings(&[])).unwrap_err();
    assert!(matches!(error, Error::Failed(Source::Instance, _)), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn credentials_are_replaced_before_they_end_and_a_failure_does_not_lose_them() {
    // The first end in two seconds, so they are asked for after one; the endpoint then fails once.
    let endpoint = Endpoint::new(|_, number| match number {
        0 => (200, answer("first", 2)),
        1 => (500, String::new()),
        _ => (200, answer("second", 3600)),
    });
    let (credentials, _, refresher, later) = start(settings(&[(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        &format!("{}/x", endpoint.url),
    )]))
    .unwrap();
    assert_eq!(credentials.access_key, "first");
    assert_temporary(&later.recv_timeout(PATIENCE).unwrap(), "second");
    assert_eq!(endpoint.asked().len(), 3);
    drop(refresher);
    assert!(later.recv_timeout(PATIENCE).is_err(), "the thread has ended");
}
