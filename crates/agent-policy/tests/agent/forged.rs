//! Requests for other containers than the pod's: each is an honest one with one thing changed.

use serde_json::{Value, json};

use crate::engine::Agent;
use crate::honest::{boot, initialised, removal, sandbox, with_web};
use crate::requests::{Engine, GPU, WEB, json_of};

const ENGINE: Engine = Engine::Containerd2;

fn web() -> Value {
    ENGINE.web()
}

fn gpu() -> Value {
    ENGINE.gpu()
}

fn pause() -> Value {
    ENGINE.pause()
}

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    another_process();
    another_value_of_a_shape();
    another_container();
    a_pause_container_that_does_something();
    another_confinement();
    another_filter();
    other_mounts();
    other_storages();
    other_models();
    other_devices();
    another_sandbox();
    an_empty_dir_gets_a_size_of_its_own();
}

type Forge = fn(&mut Value);

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

fn mount<'a>(request: &'a mut Value, destination: &str) -> &'a mut Value {
    let mounts = request["OCI"]["Mounts"].as_array_mut().unwrap();
    mounts.iter_mut().find(|mount| mount["destination"] == destination).unwrap()
}

fn storage<'a>(request: &'a mut Value, driver: &str) -> &'a mut Value {
    let storages = request["storages"].as_array_mut().unwrap();
    storages.iter_mut().find(|storage| storage["driver"] == driver).unwrap()
}

/// Where a layer of the tests' images is mounted.
fn layer(id: &str, byte: u8) -> String {
    format!("/run/l/{id:.10}{}", format!("{byte:02x}").repeat(5))
}

/// The request with all its layers where the container with this id would have them.
fn renamed_places(request: &Value, id: &str) -> Value {
    let (own, other) = (layer(WEB, 4), layer(id, 4));
    let [own, other] = [&own, &other].map(|place| &place[..place.len() - 10]);
    serde_json::from_str(&request.to_string().replace(own, other)).unwrap()
}

fn bind(source: &str, destination: &str) -> Value {
    json!({ "destination": destination, "source": source, "type_": "bind", "options": ["rbind", "rw"] })
}

fn without(mount: &mut Value, option: &str) {
    let options = mount["options"].as_array_mut().unwrap();
    assert!(options.iter().any(|known| known == option));
    options.retain(|known| known != option);
}

fn assert_refused(honest: &dyn Fn() -> Value, forged: &[(&str, Forge)]) {
    let honest = honest();
    let mut agent = Agent::strict();
    if honest["OCI"]["Process"]["Args"][0] == "/pause" {
        boot(&mut agent);
    } else {
        initialised(&mut agent, ENGINE);
    }
    for (what, forge) in forged {
        let mut request = honest.clone();
        forge(&mut request);
        assert_ne!(request, honest, "{what} changes nothing");
        assert!(!agent.allows("CreateContainerRequest", &request), "{what}");
    }
    agent.accept("CreateContainerRequest", &honest);
}

#[test]
fn another_value_of_a_shape() {
    assert_refused(
        &gpu,
        &[
            ("no address", |r| r["OCI"]["Process"]["Args"][2] = "evil.example.com:80".into()),
            ("an argument in two", |r| r["OCI"]["Process"]["Args"][2] = "10.4.0.5\n:80".into()),
            ("another port", |r| r["OCI"]["Process"]["Args"][2] = "10.4.0.5:81".into()),
            ("an argument less", |r| {
                r["OCI"]["Process"]["Args"].as_array_mut().unwrap().remove(2);
            }),
            ("a name for an address", |r| r["OCI"]["Process"]["Env"][4] = "POD_IP=evil.example.com".into()),
            ("no address at all", |r| {
                r["OCI"]["Process"]["Env"].as_array_mut().unwrap().remove(4);
            }),
            ("the image's value last", |r| r["OCI"]["Process"]["Env"].as_array_mut().unwrap().swap(3, 5)),
            ("the image's value alone", |r| {
                r["OCI"]["Process"]["Env"].as_array_mut().unwrap().remove(5);
            }),
            ("a third value", |r| push(&mut r["OCI"]["Process"]["Env"], "MODE=image".into())),
        ],
    );
}

#[test]
fn another_process() {
    assert_refused(
        &web,
        &[
            ("another command", |r| r["OCI"]["Process"]["Args"] = json!(["/bin/sh", "-c", "id"])),
            ("another argument", |r| r["OCI"]["Process"]["Args"][2] = "22".into()),
            ("one more argument", |r| push(&mut r["OCI"]["Process"]["Args"], "--debug".into())),
            ("LD_PRELOAD", |r| push(&mut r["OCI"]["Process"]["Env"], "LD_PRELOAD=/cache/x.so".into())),
            ("another PATH", |r| r["OCI"]["Process"]["Env"][0] = "PATH=/cache".into()),
            ("another value", |r| r["OCI"]["Process"]["Env"][2] = "PORT=22".into()),
            ("a variable left out", |r| {
                r["OCI"]["Process"]["Env"].as_array_mut().unwrap().remove(2);
            }),
            ("a second value", |r| push(&mut r["OCI"]["Process"]["Env"], "TOKEN=x".into())),
            ("a service that is none", |r| {
                push(&mut r["OCI"]["Process"]["Env"], "X_SERVICE_HOST=$(id)".into())
            }),
            ("half a service", |r| {
                push(&mut r["OCI"]["Process"]["Env"], "DEBUG_PORT=tcp://10.0.0.1:22".into())
            }),
            ("a host name", |r| r["OCI"]["Process"]["Env"][1] = "HOSTNAME=web-1".into()),
            ("a terminal's variable", |r| push(&mut r["OCI"]["Process"]["Env"], "TERM=xterm".into())),
            ("fewer capabilities", |r| {
                for set in ["Bounding", "Effective", "Permitted"] {
                    r["OCI"]["Process"]["Capabilities"][set] = json!([]);
                }
            }),
            ("no group", |r| r["OCI"]["Process"]["User"]["AdditionalGids"] = json!([])),
            ("one more group", |r| push(&mut r["OCI"]["Process"]["User"]["AdditionalGids"], 0.into())),
            ("a group twice", |r| push(&mut r["OCI"]["Process"]["User"]["AdditionalGids"], 44.into())),
            ("a limit", |r| {
                push(
                    &mut r["OCI"]["Process"]["Rlimits"],
                    json!({ "Type": "RLIMIT_NOFILE", "Hard": 1, "Soft": 1 }),
                )
            }),
            ("another user", |r| r["OCI"]["Process"]["User"]["UID"] = 0.into()),
            ("another group", |r| r["OCI"]["Process"]["User"]["GID"] = 0.into()),
            ("a user by name", |r| r["OCI"]["Process"]["User"]["Username"] = "root".into()),
            ("another directory", |r| r["OCI"]["Process"]["Cwd"] = "/cache".into()),
            ("a terminal", |r| r["OCI"]["Process"]["Terminal"] = true.into()),
            ("a capability", |r| {
                push(&mut r["OCI"]["Process"]["Capabilities"]["Effective"], "CAP_SYS_ADMIN".into())
            }),
            ("an ambient one", |r| {
                push(&mut r["OCI"]["Process"]["Capabilities"]["Ambient"], "CAP_NET_BIND_SERVICE".into());
            }),
            ("new privileges", |r| r["OCI"]["Process"]["NoNewPrivileges"] = false.into()),
            ("output past the agent", |r| r["stdout_port"] = 9000.into()),
            ("errors past the agent", |r| r["stderr_port"] = 9000.into()),
        ],
    );
}

#[test]
fn another_container() {
    assert_refused(
        &web,
        &[
            ("an unknown one", |r| {
                r["OCI"]["Annotations"]["io.kubernetes.cri.container-name"] = "debug".into()
            }),
            ("another one of the pod", |r| {
                r["OCI"]["Annotations"]["io.kubernetes.cri.container-name"] = "gpu".into();
            }),
            ("without a name", |r| r["OCI"]["Annotations"]["io.kubernetes.cri.container-name"] = "".into()),
            ("the sandbox's", |r| {
                r["OCI"]["Annotations"]["io.kubernetes.cri.container-type"] = "sandbox".into()
            }),
            ("without a type", |r| {
                r["OCI"]["Annotations"].as_object_mut().unwrap().remove("io.kubernetes.cri.container-type");
            }),
            ("another image", |r| {
                let image = format!("registry.example.com/web@sha256:{}", "0".repeat(64));
                r["OCI"]["Annotations"]["io.kubernetes.cri.image-name"] = image.into();
            }),
            ("an image by tag", |r| {
                r["OCI"]["Annotations"]["io.kubernetes.cri.image-name"] =
                    "registry.example.com/web:v7".into();
            }),
            ("no image", |r| {
                r["OCI"]["Annotations"].as_object_mut().unwrap().remove("io.kubernetes.cri.image-name");
            }),
            ("another pod", |r| r["OCI"]["Annotations"]["io.kubernetes.cri.sandbox-name"] = "web-1".into()),
            ("another namespace", |r| {
                r["OCI"]["Annotations"]["io.kubernetes.cri.sandbox-namespace"] = "x".into()
            }),
            ("last words of a secret", |r| {
                let path = "/etc/key/token";
                r["OCI"]["Annotations"]["io.kubernetes.container.terminationMessagePath"] = path.into();
            }),
            ("an annotation for the agent", |r| {
                r["OCI"]["Annotations"]["io.katacontainers.pkg.oci.container_type"] = "pod_sandbox".into();
            }),
            ("a user as text", |r| {
                r["string_user"] = json!({ "uid": "0", "gid": "0", "additionalGids": [] })
            }),
            ("the sandbox's processes", |r| r["sandbox_pidns"] = true.into()),
            ("a mount of another container", |r| {
                push(
                    &mut r["shared_mounts"],
                    json!({ "name": "x", "src_ctr": GPU, "src_path": "/", "dst_ctr": WEB,
                    "dst_path": "/mnt" }),
                );
            }),
            ("hooks", |r| r["OCI"]["Hooks"] = json!({ "Prestart": [{ "Path": "/bin/sh" }] })),
            ("another root", |r| r["OCI"]["Root"]["Path"] = "/run/kata-containers/c0ffee02/rootfs".into()),
            ("a root for writing", |r| r["OCI"]["Root"]["Readonly"] = false.into()),
        ],
    );
}

#[test]
fn a_pause_container_that_does_something() {
    assert_refused(
        &pause,
        &[
            ("a command", |r| r["OCI"]["Process"]["Args"] = json!(["/bin/sh"])),
            ("a mount", |r| {
                push(&mut r["OCI"]["Mounts"], bind("/run/kata-containers/sandbox/ephemeral/cache", "/cache"))
            }),
            ("a device", |r| push(&mut r["devices"], json!({ "id": "vfio0", "type_": "vfio-pci-gk" }))),
            ("a kernel setting", |r| r["OCI"]["Linux"]["Sysctl"]["kernel.core_pattern"] = "|/bin/sh".into()),
        ],
    );
}

#[test]
fn another_confinement() {
    assert_refused(
        &web,
        &[
            ("a namespace of the guest's", |r| {
                r["OCI"]["Linux"]["Namespaces"][0]["Path"] = "/proc/1/ns/mnt".into()
            }),
            ("no mount namespace", |r| {
                r["OCI"]["Linux"]["Namespaces"].as_array_mut().unwrap().retain(|n| n["Type"] != "mount");
            }),
            ("a user namespace", |r| {
                push(&mut r["OCI"]["Linux"]["Namespaces"], json!({ "Type": "user", "Path": "" }))
            }),
            ("no shared memory of the pod's", |r| {
                r["OCI"]["Linux"]["Namespaces"].as_array_mut().unwrap().retain(|n| n["Type"] != "ipc");
            }),
            ("a namespace twice", |r| r["OCI"]["Linux"]["Namespaces"][2]["Type"] = "mount".into()),
            ("an application's file masked", |r| {
                push(&mut r["OCI"]["Linux"]["MaskedPaths"], "/etc/app/ca.crt".into());
            }),
            ("random numbers masked", |r| push(&mut r["OCI"]["Linux"]["MaskedPaths"], "/dev/urandom".into())),
            ("a directory read-only", |r| push(&mut r["OCI"]["Linux"]["ReadonlyPaths"], "/cache".into())),
            ("the firmware's tables", |r| {
                r["OCI"]["Linux"]["MaskedPaths"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|path| path != "/sys/firmware");
            }),
            ("a setting of the sandbox's", |r| {
                r["OCI"]["Linux"]["Sysctl"]["net.ipv4.ip_unprivileged_port_start"] = "0".into();
            }),
            ("a real-time share", |r| r["OCI"]["Linux"]["Resources"]["CPU"]["RealtimeRuntime"] = 1.into()),
            ("a disk's limit", |r| {
                let device = json!([{ "Major": 8, "Minor": 0, "Rate": 1 }]);
                r["OCI"]["Linux"]["Resources"]["BlockIO"]["ThrottleReadBpsDevice"] = device;
            }),
            ("a device rule of another kind", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Resources"]["Devices"],
                    json!({ "Allow": true, "Type": "c", "Major": 1, "Minor": 3, "Access": "rwx" }),
                );
            }),
            ("a device node", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Devices"],
                    json!({ "Path": "/dev/vda", "Type": "b", "Major": 254, "Minor": 0 }),
                );
            }),
            ("a node under a usual name", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Devices"],
                    json!({ "Path": "/dev/null", "Type": "c", "Major": 1, "Minor": 1, "FileMode": 0o666 }),
                );
            }),
            ("privileged: all devices", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Resources"]["Devices"],
                    json!({ "Allow": true, "Type": "a", "Major": -1, "Minor": -1, "Access": "rwm" }),
                );
            }),
            ("a block device's rule", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Resources"]["Devices"],
                    json!({ "Allow": true, "Type": "b", "Major": 8, "Minor": 0, "Access": "rwm" }),
                );
            }),
            ("privileged: nothing masked", |r| r["OCI"]["Linux"]["MaskedPaths"] = json!([])),
            ("nothing read-only", |r| r["OCI"]["Linux"]["ReadonlyPaths"] = json!([])),
            ("a kernel setting", |r| r["OCI"]["Linux"]["Sysctl"]["kernel.core_pattern"] = "|/bin/sh".into()),
            ("another cgroup", |r| r["OCI"]["Linux"]["CgroupsPath"] = "/".into()),
            ("shared mounts", |r| r["OCI"]["Linux"]["RootfsPropagation"] = "rshared".into()),
            ("users of its own", |r| {
                push(
                    &mut r["OCI"]["Linux"]["UIDMappings"],
                    json!({ "HostID": 0, "ContainerID": 0, "Size": 1 }),
                );
            }),
        ],
    );
}

fn filter<'a>(request: &'a mut Value, name: &str) -> &'a mut Value {
    let rules = request["OCI"]["Linux"]["Seccomp"]["Syscalls"].as_array_mut().unwrap();
    rules.iter_mut().find(|rule| rule["Names"].as_array().unwrap().contains(&name.into())).unwrap()
}

#[test]
fn another_filter() {
    assert_refused(
        &web,
        &[
            ("none", |r| r["OCI"]["Linux"]["Seccomp"] = Value::Null),
            ("one that allows all and lies about some", |r| {
                r["OCI"]["Linux"]["Seccomp"] = json!({ "DefaultAction": "SCMP_ACT_ALLOW", "Architectures": [],
                    "Flags": [], "Syscalls": [{ "Names": ["getrandom", "setuid"], "Action": "SCMP_ACT_ERRNO",
                    "errnoret": 0, "Args": [] }] });
            }),
            ("a call that seems to succeed", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Seccomp"]["Syscalls"],
                    json!({ "Names": ["setuid"], "Action": "SCMP_ACT_ERRNO", "errnoret": 0, "Args": [] }),
                );
            }),
            ("a call that is there and fails", |r| {
                filter(r, "getrandom")["Names"].as_array_mut().unwrap().retain(|name| name != "getrandom");
            }),
            ("a call that is missing", |r| {
                push(
                    &mut r["OCI"]["Linux"]["Seccomp"]["Syscalls"],
                    json!({ "Names": ["getrandom"], "Action": "SCMP_ACT_ERRNO", "errnoret": 38, "Args": [] }),
                );
            }),
            ("one more call", |r| push(&mut filter(r, "read")["Names"], "mount".into())),
            ("a call for some arguments only", |r| {
                filter(r, "read")["Args"] =
                    json!([{ "Index": 0, "Value": 0, "ValueTwo": 0, "Op": "SCMP_CMP_EQ" }]);
            }),
            ("sockets of another kind", |r| filter(r, "socket")["Args"][0]["Value"] = 2.into()),
            ("sockets of any kind", |r| filter(r, "socket")["Args"] = json!([])),
            ("no personality", |r| {
                r["OCI"]["Linux"]["Seccomp"]["Syscalls"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|rule| rule["Names"] != json!(["personality"]));
            }),
            ("a supervisor", |r| filter(r, "read")["Action"] = "SCMP_ACT_NOTIFY".into()),
            ("a flag", |r| {
                push(&mut r["OCI"]["Linux"]["Seccomp"]["Flags"], "SECCOMP_FILTER_FLAG_LOG".into())
            }),
            ("no filter for 32 bits", |r| {
                r["OCI"]["Linux"]["Seccomp"]["Architectures"].as_array_mut().unwrap().pop();
            }),
        ],
    );
}

#[test]
fn other_mounts() {
    assert_refused(
        &web,
        &[
            ("one more", |r| push(&mut r["OCI"]["Mounts"], bind("/run/kata-containers/sandbox/shm", "/mnt"))),
            ("the guest's root", |r| push(&mut r["OCI"]["Mounts"], bind("/", "/mnt"))),
            ("over the program", |r| {
                let source = "/run/kata-containers/shared/containers/c0ffee02-0000000000000009-serve";
                push(&mut r["OCI"]["Mounts"], bind(source, "/bin/serve"));
            }),
            ("another source", |r| {
                mount(r, "/cache")["source"] = "/run/kata-containers/c0ffee02/rootfs".into()
            }),
            ("a relative source", |r| mount(r, "/etc/app/")["source"] = "app".into()),
            ("another container's copy", |r| {
                let source = mount(r, "/etc/app/")["source"].as_str().unwrap().replace(WEB, GPU);
                mount(r, "/etc/app/")["source"] = source.into();
            }),
            ("a copy of something else", |r| {
                let source = mount(r, "/etc/hosts")["source"].clone();
                mount(r, "/etc/app/")["source"] = source;
            }),
            ("a path in a copy", |r| {
                let source = format!("{}/../x", mount(r, "/etc/app/")["source"].as_str().unwrap());
                mount(r, "/etc/app/")["source"] = source.into();
            }),
            ("for writing", |r| mount(r, "/etc/app/")["options"] = json!(["rbind", "rw"])),
            ("for writing after all", |r| push(&mut mount(r, "/etc/app/")["options"], "rw".into())),
            ("one left out", |r| {
                r["OCI"]["Mounts"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|mount| mount["destination"] != "/etc/key/token");
            }),
            ("one there twice", |r| {
                let cache = mount(r, "/cache").clone();
                push(&mut r["OCI"]["Mounts"], cache);
            }),
            ("the same place twice", |r| {
                let mut cache = mount(r, "/etc/app/").clone();
                cache["destination"] = "/etc/app".into();
                push(&mut r["OCI"]["Mounts"], cache);
            }),
            ("a parent after what is in it", |r| {
                let mounts = r["OCI"]["Mounts"].as_array_mut().unwrap();
                let dev = mounts.iter().position(|mount| mount["destination"] == "/dev").unwrap();
                let dev = mounts.remove(dev);
                mounts.push(dev);
            }),
            ("no /proc", |r| {
                r["OCI"]["Mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
            }),
            ("no shared memory", |r| {
                r["OCI"]["Mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/shm");
            }),
            ("a word that the agent does not know", |r| {
                mount(r, "/etc/app/")["options"] = json!(["rbind", "rslave", "rro"]);
            }),
            ("a volume that is not for writing", |r| {
                mount(r, "/cache")["options"] = json!(["rbind", "rprivate", "ro"])
            }),
            ("without programs", |r| push(&mut mount(r, "/cache")["options"], "noexec".into())),
            ("mounts from outside", |r| mount(r, "/cache")["options"][1] = "rslave".into()),
            ("an option of the kernel's", |r| push(&mut mount(r, "/proc")["options"], "hidepid=2".into())),
            ("a disk as an emptyDir", |r| mount(r, "/cache")["type_"] = "ext4".into()),
            ("programs in shared memory", |r| without(mount(r, "/dev/shm"), "noexec")),
            ("set-id programs in shared memory", |r| without(mount(r, "/dev/shm"), "nosuid")),
            ("device nodes in shared memory", |r| without(mount(r, "/dev/shm"), "nodev")),
            ("shared memory of the guest's", |r| mount(r, "/dev/shm")["source"] = "/dev/shm".into()),
            ("sysfs for writing", |r| mount(r, "/sys")["options"] = json!(["nosuid", "noexec", "nodev"])),
            ("a disk as /proc", |r| mount(r, "/proc")["type_"] = "ext4".into()),
            ("a disk", |r| {
                push(
                    &mut r["OCI"]["Mounts"],
                    json!({ "destination": "/cache", "source": "/dev/vda", "type_": "ext4",
                    "options": [] }),
                );
            }),
            ("shared with the guest", |r| push(&mut mount(r, "/cache")["options"], "rshared".into())),
        ],
    );
}

#[test]
fn other_storages() {
    assert_refused(
        &web,
        &[
            ("a directory of the host", |r| {
                push(
                    &mut r["storages"],
                    json!({ "driver": "virtio-fs", "driver_options": [], "source": "kataShared",
                    "fstype": "virtiofs", "options": [], "mount_point": "/run/kata-containers/shared/containers",
                    "fs_group": null, "shared": false }),
                );
            }),
            ("a bind of the guest's", |r| {
                push(
                    &mut r["storages"],
                    json!({ "driver": "bind", "driver_options": [], "source": "/", "fstype": "bind",
                    "options": ["bind"], "mount_point": "/mnt", "fs_group": null, "shared": false }),
                );
            }),
            ("an image pulled in the guest", |r| storage(r, "blk")["driver"] = "image_guest_pull".into()),
            ("a layer elsewhere", |r| storage(r, "blk")["mount_point"] = "/usr".into()),
            ("a layer where another container has it", |r| {
                *r = renamed_places(r, GPU);
            }),
            ("one layer where another container has it", |r| {
                let place = layer(GPU, 4);
                storage(r, "blk")["mount_point"] = place.as_str().into();
                let overlay = storage(r, "overlayfs");
                let lower = overlay["options"][1].as_str().unwrap().replace(&layer(WEB, 4), &place);
                overlay["options"][1] = lower.into();
            }),
            ("a layer for writing", |r| storage(r, "blk")["options"] = json!([])),
            ("a layer with another file system", |r| storage(r, "blk")["fstype"] = "ext4".into()),
            ("a layer's options for the driver", |r| storage(r, "blk")["driver_options"] = json!(["x=y"])),
            ("another layer", |r| {
                let hash = "09".repeat(32);
                storage(r, "blk")["source"] = format!("/dev/mapper/{hash}").into();
            }),
            ("a disk", |r| storage(r, "blk")["source"] = "/dev/sda".into()),
            ("a disk of the controller", |r| {
                storage(r, "blk")["driver"] = "scsi".into();
            }),
            ("layers in another order", |r| r["storages"].as_array_mut().unwrap().swap(0, 1)),
            ("a layer too few", |r| {
                r["storages"].as_array_mut().unwrap().remove(0);
                let lower = r["storages"][2]["options"][1]
                    .as_str()
                    .unwrap()
                    .replace(&format!("{}:", layer(WEB, 4)), "");
                r["storages"][2]["options"][1] = lower.into();
            }),
            ("a layer too many", |r| {
                let layer = storage(r, "blk").clone();
                r["storages"].as_array_mut().unwrap().insert(0, layer);
            }),
            ("the overlay first", |r| r["storages"].as_array_mut().unwrap().swap(0, 3)),
            ("an emptyDir too few", |r| {
                r["storages"].as_array_mut().unwrap().pop();
            }),
            ("an emptyDir twice", |r| {
                let dir = storage(r, "ephemeral").clone();
                push(&mut r["storages"], dir);
            }),
            ("devices on a layer", |r| storage(r, "blk")["options"] = json!(["ro"])),
            ("devices on the overlay", |r| {
                storage(r, "overlayfs")["options"].as_array_mut().unwrap().remove(0);
            }),
            ("no layers", |r| {
                r["storages"].as_array_mut().unwrap().retain(|storage| storage["driver"] != "blk");
            }),
            ("a directory of the guest's as a layer", |r| {
                storage(r, "overlayfs")["options"][1] = format!("lowerdir=/:{}", layer(WEB, 4)).into();
            }),
            ("changes kept in a volume", |r| {
                storage(r, "overlayfs")["options"][2] =
                    "upperdir=/run/kata-containers/sandbox/ephemeral/cache".into();
            }),
            ("a second root", |r| {
                let overlay = storage(r, "overlayfs").clone();
                push(&mut r["storages"], overlay);
            }),
            ("a root elsewhere", |r| storage(r, "overlayfs")["mount_point"] = "/usr".into()),
            ("an emptyDir of another name", |r| {
                storage(r, "ephemeral")["mount_point"] = "/run/kata-containers/sandbox/ephemeral/x".into();
            }),
            ("an emptyDir over a secret", |r| storage(r, "ephemeral")["mount_point"] = "/run/secrets".into()),
            ("an emptyDir on a disk", |r| {
                storage(r, "ephemeral")["source"] = "/dev/vda".into();
                storage(r, "ephemeral")["fstype"] = "ext4".into();
            }),
            ("an emptyDir of another group", |r| storage(r, "ephemeral")["options"] = json!(["fsgid=0"])),
        ],
    );
}

/// The last of the storages is the model's.
fn model(request: &mut Value) -> &mut Value {
    request["storages"].as_array_mut().unwrap().last_mut().unwrap()
}

#[test]
fn other_models() {
    assert_refused(
        &gpu,
        &[
            ("another model", |r| {
                let hash = "08".repeat(32);
                model(r)["source"] = format!("/dev/mapper/{hash}").into();
            }),
            ("a model for writing", |r| model(r)["options"] = json!(["nodev"])),
            ("a disk as a model", |r| model(r)["source"] = "/dev/sdb".into()),
            ("a model with another file system", |r| model(r)["fstype"] = "ext4".into()),
            ("no model", |r| {
                r["storages"].as_array_mut().unwrap().pop();
            }),
            ("a model twice", |r| {
                let again = model(r).clone();
                push(&mut r["storages"], again);
            }),
            ("a model where another container has it", |r| {
                let place = layer(WEB, 9);
                model(r)["mount_point"] = place.as_str().into();
                mount(r, "/models")["source"] = place.into();
            }),
            ("a layer in the model's place", |r| {
                mount(r, "/models")["source"] = layer(GPU, 7).into();
            }),
            ("a mount for writing", |r| mount(r, "/models")["options"] = json!(["rbind", "rprivate", "rw"])),
            ("the model elsewhere", |r| mount(r, "/models")["destination"] = "/usr".into()),
            ("the model's mount left out", |r| {
                r["OCI"]["Mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/models");
            }),
        ],
    );
}

#[test]
fn other_devices() {
    assert_refused(
        &web,
        &[
            ("a GPU for a container without", |r| push(&mut r["devices"], gpu()["devices"][0].clone())),
            ("a disk", |r| {
                push(
                    &mut r["devices"],
                    json!({ "id": "vda", "type_": "blk", "vm_path": "", "container_path": "/dev/x",
                    "options": [] }),
                );
            }),
            ("a GPU's annotation", |r| {
                r["OCI"]["Annotations"]["cdi.k8s.io/vfio0"] = "nvidia.com/gpu=0".into()
            }),
        ],
    );
    assert_refused(
        &gpu,
        &[
            ("no GPUs", |r| r["devices"] = json!([])),
            ("one GPU too few", |r| {
                r["devices"].as_array_mut().unwrap().pop();
                r["OCI"]["Annotations"].as_object_mut().unwrap().remove("cdi.k8s.io/vfio7");
            }),
            ("one too many", |r| {
                push(
                    &mut r["devices"],
                    json!({ "id": "vfio8", "type_": "vfio-pci-gk", "vm_path": "",
                    "container_path": "/dev/vfio/devices/vfio8", "options": ["0000:81:00.0=0b/00"] }),
                );
                r["OCI"]["Annotations"]["cdi.k8s.io/vfio8"] = "nvidia.com/gpu=2".into();
            }),
            ("the same one twice", |r| r["devices"][1] = r["devices"][0].clone()),
            ("the same place twice", |r| r["devices"][1]["options"][0] = "0000:61:00.0=09/00".into()),
            ("the same rank twice", |r| {
                r["OCI"]["Annotations"]["cdi.k8s.io/vfio7"] = "nvidia.com/gpu=0".into()
            }),
            ("all of them", |r| r["OCI"]["Annotations"]["cdi.k8s.io/vfio7"] = "nvidia.com/gpu=all".into()),
            ("another kind", |r| r["OCI"]["Annotations"]["cdi.k8s.io/vfio7"] = "vendor.com/x=0".into()),
            ("a rank without a device", |r| {
                r["OCI"]["Annotations"].as_object_mut().unwrap().remove("cdi.k8s.io/vfio7");
                r["OCI"]["Annotations"]["cdi.k8s.io/vfio8"] = "nvidia.com/gpu=1".into();
            }),
            ("another driver", |r| r["devices"][0]["type_"] = "blk".into()),
            ("another node", |r| r["devices"][0]["container_path"] = "/dev/mem".into()),
        ],
    );
}

#[test]
fn another_sandbox() {
    let mut agent = Agent::strict();
    let forged: [(&str, Forge); 9] = [
        ("hooks of the guest's", |r| r["guest_hook_path"] = "/usr/share/oci/hooks".into()),
        ("a kernel module", |r| push(&mut r["kernel_modules"], json!({ "name": "x", "parameters": [] }))),
        ("name servers", |r| push(&mut r["dns"], "nameserver 10.0.0.1".into())),
        ("shared processes", |r| r["sandbox_pidns"] = true.into()),
        ("no shared memory", |r| r["storages"] = json!([])),
        ("a directory of the host", |r| r["storages"][0]["driver"] = "virtio-fs".into()),
        ("shared memory with programs", |r| r["storages"][0]["options"] = json!(["size=4096"])),
        ("shared memory without end", |r| r["storages"][0]["options"][4] = "size=0".into()),
        ("another host name", |r| r["hostname"] = "web-1".into()),
    ];
    for (what, forge) in forged {
        let mut request = json_of(&sandbox());
        forge(&mut request);
        assert!(!agent.allows("CreateSandboxRequest", &request), "{what}");
    }
    boot(&mut agent);
    // The remount is for shared memory only, and before there are containers.
    let remount = json_of(&guest_spec::shm_remount(4096));
    for (field, value) in
        [("mount_point", "/usr"), ("source", "/dev/vda"), ("fstype", "ext4"), ("driver", "bind")]
    {
        let mut request = remount.clone();
        request["storages"][0][field] = value.into();
        agent.refuse("UpdateEphemeralMountsRequest", &request, "storages");
    }
    agent.accept("UpdateEphemeralMountsRequest", &remount);
    agent.accept("CreateContainerRequest", &pause());
    agent.refuse("UpdateEphemeralMountsRequest", &remount, "(the time)");
}

/// Once it is mounted, and nothing but its size.
#[test]
fn an_empty_dir_gets_a_size_of_its_own() {
    let mut agent = Agent::strict();
    let web = Engine::Containerd2.web();
    let mut storages = web["storages"].as_array().unwrap().iter();
    let place = storages.find(|storage| storage["driver"] == "ephemeral").unwrap()["mount_point"].clone();
    let mut size = json_of(&guest_spec::shm_remount(4096));
    size["storages"][0]["mount_point"] = place;
    size["storages"][0]["options"] = json!(["remount", "size=4096"]);
    boot(&mut agent);
    assert!(!agent.allows("UpdateEphemeralMountsRequest", &size), "before its container");
    let mut agent = Agent::strict();
    with_web(&mut agent);
    agent.accept("UpdateEphemeralMountsRequest", &size);
    for (field, value) in [
        ("mount_point", json!("/run/kata-containers/sandbox/ephemeral/x")),
        ("options", json!(["remount", "size=0"])),
        ("options", json!(["remount", "size=4096", "mode=0777"])),
        ("options", json!(["bind", "size=4096"])),
        ("source", json!("/dev/vda")),
        ("shared", json!(true)),
    ] {
        let mut request = size.clone();
        request["storages"][0][field] = value;
        assert!(!agent.allows("UpdateEphemeralMountsRequest", &request), "{request}");
    }
    agent.accept("RemoveContainerRequest", &removal(WEB));
    // Its init container, which is gone as well, had the same one.
    assert!(!agent.allows("UpdateEphemeralMountsRequest", &size), "after its containers");
}
