//! A registry that plays the one an image is pulled from, over plain HTTP at the bridge that CNI gives the pods: it has what an
//! OCI layout has, by digest (OCI distribution 1.1, "Pulling manifests" and "Pulling blobs").

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::or_fail::OrFail;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// It serves until the test's process ends.
#[derive(Debug)]
pub struct Registry {
    asked: Arc<Mutex<Vec<String>>>,
    changed: Arc<Mutex<String>>,
}

impl Registry {
    /// Where one with this port is, as it stands in an image's name.
    pub fn place(port: u16) -> String {
        format!("10.99.0.1:{port}")
    }

    /// Serves the layout's blobs at a port that nobody else in the rig has.
    pub fn open(port: u16, layout: &Path) -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), port));
        let listener = TcpListener::bind(address).or_fail("listen for a registry");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let changed = Arc::new(Mutex::new("nothing".to_owned()));
        let (blobs, seen, lie) = (layout.join("blobs/sha256"), Arc::clone(&asked), Arc::clone(&changed));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (blobs, seen, lie) =
                    (blobs.clone(), Arc::clone(&seen), lie.lock().or_fail("the lie").clone());
                // Whoever leaves in the middle is no fault of the registry's.
                thread::spawn(move || answer(&stream, &blobs, &seen, &lie).ok());
            }
        });
        Self { asked, changed }
    }

    /// From now on what is asked for by a path with this part has one bit flipped.
    pub fn change(&self, part: &str) {
        part.clone_into(&mut self.changed.lock().or_fail("the lie"));
    }

    /// Paths that it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().or_fail("the questions").clone()
    }
}

fn answer(stream: &TcpStream, blobs: &Path, seen: &Mutex<Vec<String>>, lie: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    seen.lock().or_fail("the questions").push(path.to_owned());
    let is_manifest = path.contains("/manifests/");
    let kind = if is_manifest { MANIFEST } else { "application/octet-stream" };
    let found = if path == "/v2/" {
        Some(Vec::new())
    } else {
        blob(blobs, path).and_then(|file| fs::read(file).ok())
    };
    let (status, content) = found.map_or(("404 Not Found", Vec::new()), |content| ("200 OK", content));
    let mut content = content;
    let at = content.len() * 3 / 4;
    if path.contains(lie)
        && let Some(byte) = content.get_mut(at)
    {
        *byte ^= 1;
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    )?;
    if method != "HEAD" {
        stream.write_all(&content)?;
    }
    Ok(())
}

/// The file of a digest at the end of a path.
fn blob(blobs: &Path, path: &str) -> Option<PathBuf> {
    let digest = path.rsplit_once("/sha256:").map(|(_, digest)| digest)?;
    digest.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| blobs.join(digest))
}
