use std::collections::BTreeMap;

use measurement::initdata::{MAX_PLAIN, build, disk::encode};

use super::*;

fn document(algorithm: Algorithm, texts: &[(&str, &str)]) -> InitData {
    let texts: BTreeMap<String, String> =
        texts.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    build(algorithm, texts).unwrap()
}

fn pod(algorithm: Algorithm) -> InitData {
    document(algorithm, &[(POLICY, "package agent_policy\n")])
}

fn snp(document: &InitData) -> Claim {
    Claim::Snp(*document.host_data().as_bytes())
}

fn tdx(document: &InitData) -> Claim {
    Claim::Tdx(*document.mr_config_id().as_bytes())
}

#[test]
fn the_pods_own_document_passes_whatever_its_algorithm() {
    for algorithm in Algorithm::ALL {
        let pod = pod(algorithm);
        // Each field has the digest's beginning, filled up with zeros.
        let mut field = pod.digest();
        field.resize(48, 0);
        assert_eq!(tdx(&pod), Claim::Tdx(field.as_slice().try_into().unwrap()));
        for claim in [snp(&pod), tdx(&pod)] {
            check(Some(&pod), &claim, Profile::Release).unwrap();
        }
    }
}

#[test]
fn another_pods_document_is_refused() {
    let (honest, other) = (pod(Algorithm::Sha384), document(Algorithm::Sha384, &[(POLICY, "allow all")]));
    for claim in [snp(&honest), tdx(&honest)] {
        let error = check(Some(&other), &claim, Profile::Dev).unwrap_err();
        assert!(matches!(error, InitdataError::Other { .. }), "{error}");
        assert!(error.to_string().contains(&hex(&claim)), "{error}");
    }
}

#[test]
fn a_field_that_is_right_only_at_its_beginning_is_refused() {
    let pod = pod(Algorithm::Sha256);
    let mut field = *pod.mr_config_id().as_bytes();
    field[40] = 1;
    assert!(matches!(
        check(Some(&pod), &Claim::Tdx(field), Profile::Release),
        Err(InitdataError::Other { .. })
    ));
    let mut field = *pod.host_data().as_bytes();
    field[31] ^= 1;
    assert!(matches!(
        check(Some(&pod), &Claim::Snp(field), Profile::Release),
        Err(InitdataError::Other { .. })
    ));
}

#[test]
fn a_digest_without_a_document_is_refused() {
    let pod = pod(Algorithm::Sha256);
    for profile in [Profile::Dev, Profile::Release] {
        let error = check(None, &snp(&pod), profile).unwrap_err();
        assert!(matches!(error, InitdataError::Missing(_)), "{error}");
        assert!(error.to_string().contains(&hex(&snp(&pod))), "{error}");
    }
}

#[test]
fn a_document_without_a_digest_is_refused() {
    let pod = pod(Algorithm::Sha384);
    for claim in [Claim::Snp([0; 32]), Claim::Tdx([0; 48])] {
        assert!(matches!(check(Some(&pod), &claim, Profile::Dev), Err(InitdataError::Unbound)));
    }
}

#[test]
fn without_a_confidential_vm_nothing_is_compared() {
    check(Some(&pod(Algorithm::Sha256)), &Claim::None, Profile::Release).unwrap();
    check(None, &Claim::None, Profile::Dev).unwrap();
    check(None, &Claim::Snp([0; 32]), Profile::Debug).unwrap();
}

#[test]
fn a_release_image_needs_a_policy() {
    let text = "this image runs no pod without a policy in its initdata";
    for claim in [Claim::None, Claim::Snp([0; 32]), Claim::Tdx([0; 48])] {
        assert_eq!(check(None, &claim, Profile::Release).unwrap_err().to_string(), text);
    }
    let without = document(Algorithm::Sha256, &[("aa.toml", "")]);
    assert_eq!(check(Some(&without), &snp(&without), Profile::Release).unwrap_err().to_string(), text);
    check(Some(&without), &snp(&without), Profile::Debug).unwrap();
}

#[test]
fn disks_that_hold_no_document_are_refused() {
    let pod = pod(Algorithm::Sha384);
    let disk = encode(&pod).unwrap();
    assert_eq!(parse(disk.as_slice()).unwrap(), pod);
    let refused = |disk: &[u8], cause: &str| {
        let error = parse(disk).unwrap_err().to_string();
        assert!(error.starts_with("the initdata disk is not usable: ") && error.contains(cause), "{error}");
    };
    refused(&[0; 512], "does not begin with");
    refused(&disk[..100], "has room for");
    refused(b"", "does not begin with");
    let mut damaged = disk.clone();
    damaged[40] ^= 1;
    assert!(parse(damaged.as_slice()).is_err());
    // A document with the specification's spelling, which the agent does not read.
    let text = String::from_utf8(pod.raw().to_vec()).unwrap().replace("sha384", "sha-384");
    refused(&framed(text.as_bytes()), "\"sha-384\" is not known");
    let bomb = vec![b'#'; MAX_PLAIN + 1];
    refused(&framed(&bomb), "once decompressed");
}

/// A disk around any text.
fn framed(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut encoder, text).unwrap();
    let compressed = encoder.finish().unwrap();
    [&b"initdata"[..], &(compressed.len() as u64).to_le_bytes(), &compressed, &[0; 512]].concat()
}

#[test]
fn a_disk_without_end_is_not_read_to_its_end() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += buffer.len() as u64;
            assert!(self.0 <= 4 * MAX_DISK as u64, "{} bytes were read", self.0);
            buffer.fill(0);
            Ok(buffer.len())
        }
    }
    assert!(matches!(parse(Endless(0)), Err(InitdataError::Disk(_))));
}

#[test]
fn checked_texts_are_where_the_agent_looks() {
    let root = tempfile::tempdir().unwrap();
    let pod = document(
        Algorithm::Sha256,
        &[
            (POLICY, "package agent_policy\n"),
            ("aa.toml", "a"),
            ("cdh.toml", "c"),
            ("agent.toml", "x"),
            (DECLARATION, ""),
        ],
    );
    write(root.path(), &pod).unwrap();
    let read = |path: &str| fs::read(root.path().join(path)).unwrap();
    assert_eq!(read("run/coffer/policy.rego"), b"package agent_policy\n");
    assert_eq!(read("run/confidential-containers/initdata/aa.toml"), b"a");
    assert_eq!(read("run/confidential-containers/initdata/cdh.toml"), b"c");
    assert_eq!(read("run/confidential-containers/initdata/initdata.toml"), pod.raw());
    // Nothing else is made of a key that the host's friends could choose.
    let count = |path: &str| fs::read_dir(root.path().join(path)).unwrap().count();
    assert_eq!((count("run"), count("run/coffer"), count("run/confidential-containers/initdata")), (2, 1, 3));
    assert!(matches!(write(root.path(), &pod), Err(InitdataError::Write { .. })));
}

#[test]
fn a_declaration_is_exact() {
    let of = |text: &str| declared(&document(Algorithm::Sha256, &[(DECLARATION, text)]));
    assert_eq!(of("gpus = 8\nswitches = 4\n").unwrap().devices(), Declared { gpus: 8, switches: 4 });
    assert_eq!(of("gpus = 1\n").unwrap().devices(), Declared { gpus: 1, switches: 0 });
    assert_eq!(declared(&pod(Algorithm::Sha256)).unwrap(), Declaration::default());
    assert!(of("token_key = true\n").unwrap().token_key && !of("gpus = 1\n").unwrap().token_key);
    for text in [
        "gpus = -1\n",
        "gpus = 70000\n",
        "gpus = \"1\"\n",
        "gpu = 1\n",
        "gpus = 1\ngpus = 2\n",
        "nameservers = [\"a\"]\n",
        "x",
    ] {
        let error = of(text).unwrap_err();
        assert!(matches!(error, InitdataError::Declaration(_)), "{text}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
