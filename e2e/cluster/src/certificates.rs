//! A throw-away certificate authority, certificates of every component, and their kubeconfigs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::configuration;
use crate::layout::{FIRST_SERVICE, Layout, NODES, OUTSIDE};
use crate::process::{command, output};

/// Longer than any cluster of tests lives.
const DAYS: &str = "30";

/// One certificate: file name, subject, alternative names (empty: a client only).
struct Certificate {
    file: String,
    subject: String,
    names: String,
}

/// Makes everything in `pki/`, and a kubeconfig for each client of the API server at this port.
pub(crate) fn make(layout: &Layout, port: u16) -> Result<()> {
    let directory = layout.path("pki");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    openssl(
        &directory,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=imaccess-e2e \
         -keyout ca.key -out ca.crt",
    )?;
    // RSA, as clusters commonly have it: who verifies service-account tokens must cope with it.
    openssl(
        &directory,
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out service-accounts.key",
    )?;
    openssl(
        &directory,
        "pkey -in service-accounts.key -pubout -out service-accounts.pub",
    )?;
    for certificate in certificates() {
        sign(&directory, &certificate)?;
    }
    // The administrator's works on this machine, by the forwarder, and outside of the nodes, by the API server itself.
    let anywhere = format!("https://127.0.0.1:{port}");
    let inside = format!("https://{OUTSIDE}:{port}");
    for certificate in certificates()
        .iter()
        .filter(|certificate| certificate.file != "apiserver")
    {
        let administrator = certificate.file == "admin";
        let server = if administrator { &anywhere } else { &inside };
        let text = configuration::kubeconfig(
            server,
            &read(&directory, "ca.crt")?,
            &read(&directory, &format!("{}.crt", certificate.file))?,
            &read(&directory, &format!("{}.key", certificate.file))?,
        )?;
        let path = if administrator {
            layout.kubeconfig()
        } else {
            directory.join(format!("{}.kubeconfig", certificate.file))
        };
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn certificates() -> Vec<Certificate> {
    let certificate = |file: &str, subject: &str, names: &str| Certificate {
        file: file.to_owned(),
        subject: subject.to_owned(),
        names: names.to_owned(),
    };
    let mut all = vec![
        certificate(
            "apiserver",
            "/CN=kube-apiserver",
            &format!(
                "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
                 DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:{OUTSIDE},IP:{FIRST_SERVICE}"
            ),
        ),
        certificate("admin", "/O=system:masters/CN=imaccess-e2e-administrator", ""),
        // The API server's own certificate towards the kubelets.
        certificate(
            "kubelet-client",
            "/O=system:masters/CN=kube-apiserver-kubelet-client",
            "",
        ),
        certificate("controller-manager", "/CN=system:kube-controller-manager", ""),
        certificate("scheduler", "/CN=system:kube-scheduler", ""),
        certificate("proxy", "/CN=system:kube-proxy", ""),
        certificate("coredns", "/CN=system:coredns", ""),
    ];
    for node in &NODES {
        all.push(certificate(
            node.name,
            &format!("/O=system:nodes/CN=system:node:{}", node.name),
            &format!("DNS:{},IP:{}", node.name, node.address),
        ));
    }
    all
}

fn sign(directory: &Path, certificate: &Certificate) -> Result<()> {
    let Certificate { file, subject, names } = certificate;
    let mut extensions = "extendedKeyUsage=clientAuth,serverAuth\n".to_owned();
    if !names.is_empty() {
        extensions += &format!("subjectAltName={names}\n");
    }
    fs::write(directory.join(format!("{file}.ext")), extensions)
        .with_context(|| format!("cannot write in {}", directory.display()))?;
    openssl(
        directory,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj {subject} -keyout {file}.key \
             -out {file}.csr"
        ),
    )?;
    openssl(
        directory,
        &format!(
            "x509 -req -in {file}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {DAYS} -extfile {file}.ext \
             -out {file}.crt"
        ),
    )
}

/// One call, its arguments separated by blanks.
fn openssl(directory: &Path, arguments: &str) -> Result<()> {
    output(command("openssl", arguments.split_whitespace()).current_dir(directory)).map(drop)
}

fn read(directory: &Path, file: &str) -> Result<String> {
    let path = directory.join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
