//! `kubectl port-forward`: containerd connects to `127.0.0.1` in the pod's network namespace on the host, where nothing of the
//! VM listens. Here somebody does, at every port, and hands each connection on to the pod's address. CRI-O forwards nothing for
//! a runtime of its type `vm` (`PortForwardContainer` of its `internal/oci/runtime_vm.go`).
//!
//! A program that the kernel asks when it looks for a listening socket (`BPF_PROG_TYPE_SK_LOOKUP`, Linux 5.9) gives one socket
//! all TCP connections to `127.0.0.0/8`. They come from processes in the namespace, and only the engine puts some there: no
//! frame of the pod's network or of the guest reaches the namespace's own stack, since both are redirected.
//!
//! A connection goes where any other of the node's goes, over the pod's network. The guest's loopback stays the pod's own: what
//! listens there answers nobody outside, the host least of all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Error;
use super::netns::Netns;
use crate::sys::bpf;

/// How many connections are carried at once; another one is closed.
const MOST: usize = 64;
/// How long a connection to one of the pod's addresses may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long no connection is taken after one that the kernel could not give.
const PAUSE: Duration = Duration::from_millis(200);

/// Hands connections on until it is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    task: JoinHandle<()>,
    _asked: OwnedFd,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forward {
    /// Starts to listen in a pod's namespace. Connections go to the first of `addresses` that takes them.
    ///
    /// # Errors
    /// [`Error::Device`], where the kernel has no such programs.
    pub fn start(netns: &Netns, addresses: Vec<IpAddr>) -> Result<Self, Error> {
        let action = "listen for `kubectl port-forward`";
        let listener = netns.enter(action, || StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let begin = || {
            listener.set_nonblocking(true)?;
            let map = bpf::map_of(&listener)?;
            let program = bpf::load_lookup(&program(map.as_fd()))?;
            let asked = bpf::attach_lookup(program, netns)?;
            let listener = TcpListener::from_std(listener)?;
            Ok(Self { task: tokio::spawn(serve(listener, addresses)), _asked: asked })
        };
        begin().map_err(|source| Error::Device {
            action: action.to_owned(),
            netns: netns.path().to_owned(),
            source,
        })
    }
}

async fn serve(listener: TcpListener, addresses: Vec<IpAddr>) {
    let mut carried = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while carried.try_join_next().is_some() {}
        if carried.len() < MOST {
            carried.spawn(carry(stream, addresses.clone()));
        }
    }
}

/// Connects to the same port of the pod. Where nothing listens, the connection is closed.
async fn carry(mut outside: TcpStream, addresses: Vec<IpAddr>) -> io::Result<()> {
    // The kernel leaves the port that was connected to, whichever one the socket listens at.
    let port = outside.local_addr()?.port();
    for address in addresses {
        let connected = timeout(PATIENCE, TcpStream::connect(SocketAddr::new(address, port))).await;
        if let Ok(Ok(mut pod)) = connected {
            copy_bidirectional(&mut outside, &mut pod).await?;
            break;
        }
    }
    Ok(())
}

/// Gives TCP connections to `127.0.0.0/8` the map's socket, and has all others looked up as ever. The context is
/// `struct bpf_sk_lookup` of linux/bpf.h, the code is that of its instruction set.
fn program(map: BorrowedFd<'_>) -> [u64; 24] {
    const FAMILY: i16 = 8;
    const PROTOCOL: i16 = 12;
    const LOCAL_IP4: i16 = 40;
    /// In front of which the socket is looked for as ever.
    const PASS: i16 = 22;
    // What each helper of the kernel is numbered.
    let (lookup, assign, release) = (1, 124, 86);
    let map = map.as_raw_fd();
    [
        code(0xbf, 6, 1, 0, 0),          //  0  r6 = context
        code(0x61, 2, 6, PROTOCOL, 0),   //  1  r2 = its protocol
        code(0x55, 2, 0, PASS - 3, 6),   //  2  not TCP
        code(0x61, 2, 6, FAMILY, 0),     //  3
        code(0x55, 2, 0, PASS - 5, 2),   //  4  not IPv4
        code(0x61, 2, 6, LOCAL_IP4, 0),  //  5  in network order: its first octet is the lowest here
        code(0x57, 2, 0, 0, 0xff),       //  6
        code(0x55, 2, 0, PASS - 8, 127), //  7
        code(0x62, 10, 0, -4, 0),        //  8  the key, on the stack
        code(0x18, 1, 1, 0, map),        //  9  r1 = map, in two words
        0,                               // 10
        code(0xbf, 2, 10, 0, 0),         // 11
        code(0x07, 2, 0, 0, -4),         // 12  r2 = where the key is
        code(0x85, 0, 0, 0, lookup),     // 13  r0 = the socket
        code(0x15, 0, 0, PASS - 15, 0),  // 14  none
        code(0xbf, 7, 0, 0, 0),          // 15  r7 = the socket
        code(0xbf, 1, 6, 0, 0),          // 16
        code(0xbf, 2, 7, 0, 0),          // 17
        code(0xb7, 3, 0, 0, 0),          // 18  no flags
        code(0x85, 0, 0, 0, assign),     // 19
        code(0xbf, 1, 7, 0, 0),          // 20
        code(0x85, 0, 0, 0, release),    // 21
        code(0xb7, 0, 0, 0, 1),          // 22  SK_PASS
        code(0x95, 0, 0, 0, 0),          // 23
    ]
}

/// One instruction (`struct bpf_insn`) on a machine whose lowest byte comes first.
fn code(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(operation)
        | u64::from(to | from << 4) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A namespace with a loopback, as CNI leaves one; removed when dropped. `None`, loudly, without root.
    struct Pod(String);

    impl Pod {
        fn make(name: &str) -> Option<Self> {
            let pod = Self(format!("coffer-test-{name}-{}", std::process::id()));
            if !nix::unistd::geteuid().is_root() {
                println!("not run: this test needs root");
                return None;
            }
            assert!(Command::new("ip").args(["netns", "add", &pod.0]).status().unwrap().success());
            let up = ["-n", &pod.0, "link", "set", "lo", "up"];
            assert!(Command::new("ip").args(up).status().unwrap().success());
            Some(pod)
        }

        fn netns(&self) -> Netns {
            Netns::open(&PathBuf::from("/run/netns").join(&self.0)).unwrap()
        }
    }

    impl Drop for Pod {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    /// As the engine connects.
    fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = netns.enter("connect", || std::net::TcpStream::connect(to)).map_err(io::Error::other)?;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }

    /// Here the pod's address is one of this namespace's.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        port
    }

    fn at(last: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, 0, 0, last), port).into()
    }

    #[tokio::test]
    async fn a_connection_to_any_port_of_the_loopback_reaches_that_port_of_the_pod() {
        let Some(pod) = Pod::make("forward") else { return };
        let netns = pod.netns();
        let refused = connect(&netns, at(1, 4711));
        assert!(refused.is_err());
        let forward = Forward::start(&netns, vec![Ipv4Addr::LOCALHOST.into()]).unwrap();
        for (last, text) in [(1, b"one"), (9, b"two")] {
            let mut stream = connect(&netns, at(last, echo().await)).unwrap();
            stream.write_all(text).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, text);
        }
        // Where the pod does not listen, the connection ends.
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let mut stream = connect(&netns, at(1, closed)).unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        drop(forward);
        // The kernel takes the program away in its own time.
        let gone = async {
            while connect(&netns, at(1, 4711)).is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[tokio::test]
    async fn other_addresses_are_nobodys() {
        let Some(pod) = Pod::make("others") else { return };
        let netns = pod.netns();
        let address = ["-n", &pod.0, "addr", "add", "10.9.9.9/32", "dev", "lo"];
        assert!(Command::new("ip").args(address).status().unwrap().success());
        let _forward = Forward::start(&netns, vec![Ipv4Addr::LOCALHOST.into()]).unwrap();
        let port = echo().await;
        assert!(connect(&netns, at(1, port)).is_ok());
        assert!(connect(&netns, (Ipv4Addr::new(10, 9, 9, 9), port).into()).is_err());
        assert!(connect(&netns, (std::net::Ipv6Addr::LOCALHOST, port).into()).is_err());
    }

    #[tokio::test]
    async fn so_many_connections_are_carried_and_no_more() {
        let Some(pod) = Pod::make("many") else { return };
        let netns = pod.netns();
        let _forward = Forward::start(&netns, vec![Ipv4Addr::LOCALHOST.into()]).unwrap();
        let port = echo().await;
        let mut carried = Vec::new();
        for _ in 0..MOST + 3 {
            let mut stream = connect(&netns, at(1, port)).unwrap();
            let _ = stream.write_all(b"x").await;
            let answered = stream.read(&mut [0]).await.unwrap_or(0) == 1;
            carried.push((answered, stream));
        }
        assert_eq!(carried.iter().filter(|(answered, _)| *answered).count(), MOST);
        carried.clear();
        let again = async {
            loop {
                let mut stream = connect(&netns, at(1, port)).unwrap();
                let _ = stream.write_all(b"x").await;
                if stream.read(&mut [0]).await.unwrap_or(0) == 1 {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), again).await.unwrap();
    }
}
