//! The certificates as they are in Secrets.

use super::certificates::{self, Authority, Certificate, Purpose};
use super::objects;
use crate::crd::KafscaleCluster;
use crate::desired::Stamps;
use crate::reconcile::{self, doing, Context, ReconcileError};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::Api;
use serde_json::{json, Map, Value};

/// The key of the authorities in their Secret.
const AUTHORITIES: &str = "authorities.json";
const UNTIL: &str = "kafscale.io/not-after";
const ISSUER: &str = "kafscale.io/issuer";

/// Makes certificates where there are none, and anew where they end soon.
///
/// # Errors
/// If they cannot be made, read or written.
pub async fn keep(cluster: &KafscaleCluster, namespace: &str, context: &Context) -> Result<Stamps, ReconcileError> {
    let now = Timestamp::now().as_second();
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let found = find(&api, &objects::authority_secret(cluster), cluster).await?;
    let known = match found.as_ref().and_then(|secret| text(secret, AUTHORITIES)) {
        None => Vec::new(),
        // Anew would be a break with all that runs: somebody has to look.
        Some(text) => serde_json::from_str(&text).map_err(|_| ReconcileError::Malformed("readable authorities"))?,
    };
    let authorities = certificates::authorities(known.clone(), now)?;
    if authorities != known {
        let text = serde_json::to_string(&authorities).map_err(|_| ReconcileError::Malformed("authorities"))?;
        let secret = secret(
            cluster,
            objects::authority_secret(cluster),
            json!({}),
            json!({AUTHORITIES: text}),
        );
        reconcile::apply(cluster, &secret, namespace, context).await?;
    }
    let round = Round {
        cluster,
        namespace,
        context,
        authorities: &authorities,
        now,
    };
    let member = Purpose::Member(objects::hosts(cluster));
    round
        .certificate(&api, objects::member_secret(cluster), &member)
        .await?;
    let client = round
        .certificate(&api, objects::client_secret(cluster), &Purpose::Client)
        .await?;
    let bundle = certificates::bundle(&authorities);
    Ok(Stamps {
        authorities: certificates::fingerprint(&bundle),
        client_certificate: certificates::fingerprint(&format!("{bundle}{}", client.certificate)),
        ..Stamps::default()
    })
}

struct Round<'a> {
    cluster: &'a KafscaleCluster,
    namespace: &'a str,
    context: &'a Context,
    authorities: &'a [Authority],
    now: i64,
}

impl Round<'_> {
    async fn certificate(
        &self,
        api: &Api<Secret>,
        name: String,
        purpose: &Purpose,
    ) -> Result<Certificate, ReconcileError> {
        let found = find(api, &name, self.cluster).await?;
        let known = found.as_ref().and_then(read);
        let bundle = certificates::bundle(self.authorities);
        let trusts_all = found.as_ref().and_then(|secret| text(secret, "ca.crt")).as_ref() == Some(&bundle);
        let certificate = match known {
            Some(known) if !certificates::is_due(Some(&known), self.authorities, self.now) => {
                if trusts_all {
                    return Ok(known);
                }
                known
            }
            _ => {
                let signer =
                    certificates::signer(self.authorities, self.now).ok_or(ReconcileError::Malformed("authorities"))?;
                log::info!("a new certificate for {name}");
                certificates::issue(signer, purpose, self.now)?
            }
        };
        let until = Timestamp::from_second(certificate.until).map_err(|_| ReconcileError::Malformed("an end"))?;
        let annotations = json!({UNTIL: until.to_string(), ISSUER: certificate.issuer});
        let data = json!({"ca.crt": bundle, "tls.crt": certificate.certificate, "tls.key": certificate.key});
        let secret = secret(self.cluster, name, annotations, data);
        reconcile::apply(self.cluster, &secret, self.namespace, self.context).await?;
        Ok(certificate)
    }
}

async fn find(api: &Api<Secret>, name: &str, cluster: &KafscaleCluster) -> Result<Option<Secret>, ReconcileError> {
    let what = format!("Secret {name}");
    let found = api.get_opt(name).await.map_err(doing(format!("get {what}")))?;
    match &found {
        Some(secret) if !reconcile::belongs(&secret.metadata, cluster) => Err(ReconcileError::NotOurs(what)),
        _ => Ok(found),
    }
}

/// A certificate as it was written; none if anything is missing.
fn read(secret: &Secret) -> Option<Certificate> {
    let annotations = secret.metadata.annotations.as_ref()?;
    Some(Certificate {
        certificate: text(secret, "tls.crt")?,
        key: text(secret, "tls.key")?,
        until: annotations.get(UNTIL)?.parse::<Timestamp>().ok()?.as_second(),
        issuer: annotations.get(ISSUER)?.clone(),
    })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn secret(cluster: &KafscaleCluster, name: String, annotations: Value, data: Value) -> Value {
    let mut metadata = objects::metadata(cluster, name);
    metadata["annotations"] = annotations;
    let encoded = |(key, text): (&String, &Value)| {
        let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
        (key.clone(), json!(ByteString(bytes)))
    };
    let data: Map<String, Value> = data.as_object().into_iter().flatten().map(encoded).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
}
