"""The embedded servers: Valkey as Redis, SeaweedFS as the object store, both on loopback only."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from deploy.local import probes, service
from deploy.local.data_folder import load_credential, make_private_folder, write_private
from deploy.local.ports import LOOPBACK, SOCKET_FOLDER
from deploy.local.service import Service
from tasks.capacity import FREE_BYTES

#: The servers are stopped after all services that use them.
STOP_STAGE: Final = 9
#: SeaweedFS packs objects into volumes that grow up to this size.
_VOLUME_MB: Final = 1024
_MAX_VOLUMES: Final = 1024
#: A volume is rewritten without what was erased from it once that is this part of it, which a byte
#: is. By default, up to 30 % of each volume would stay on the disk for good.
_GARBAGE_PART: Final = 1e-9
#: How often volumes are looked at. Each one that has lost something is rewritten, 1 GiB at most.
_VACUUM_SECONDS: Final = 6 * 3600
#: A new certificate is made at each start; no start lasts longer.
_CERTIFICATE_DAYS: Final = 3650
#: SeaweedFS's parts that call each other by gRPC.
_GRPC_PARTS: Final = ("master", "volume", "filer", "s3", "client")


def valkey_url(port: int, password: str) -> str:
    """Return the URL for clients."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


#: Share of the machine's memory that Valkey's data may have; models and pictures need the most, and
#: rewriting the append-only file copies what changes meanwhile. Less than the least would be full
#: with few jobs.
MEMORY_SHARE: Final = 1 / 8
LEAST_MAXMEMORY: Final = 256 * 2**20


def valkey_service(folder: Path, port: int, password: str) -> Service:
    """Return a Valkey with an append-only file in `folder`, which is created."""
    make_private_folder(folder)
    lines = [
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        # Its working directory: a path has characters that this file cannot hold.
        "dir .",
        # The jobs must survive a crash and a power failure, and must never be evicted.
        "appendonly yes",
        "appendfsync always",
        "maxmemory-policy noeviction",
        # So that the service says that it is full before the machine swaps.
        f"maxmemory {max(LEAST_MAXMEMORY, int(service.memory_bytes() * MEMORY_SHARE))}",
        'save ""',
        "daemonize no",
    ]
    config = folder / "valkey.conf"
    write_private(config, "\n".join([*lines, ""]))
    return Service(
        name="valkey",
        command=(service.valkey_server(), _one_file(config.resolve())),
        folder=folder,
        address=f"redis://{LOOPBACK}:{port}/0",
        probe=probes.redis_answers(valkey_url(port, password)),
        grace=10,
        is_server=True,
        stop_stage=STOP_STAGE,
    )


def _one_file(path: Path) -> str:
    """Return a path so that Valkey, which reads `*`, `?` and `[` as a pattern, finds this file.

    Where a pattern matches nothing, it starts without any settings: on its usual port, for all.
    """
    return re.sub(r"([*?\[\\])", r"\\\1", str(path)) if {*str(path)} & {*"*?["} else str(path)


@dataclass(frozen=True, slots=True)
class StorePorts:
    """All ports that SeaweedFS opens; one that is not given would get its well-known default."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int

    @classmethod
    def take(cls, ports: Sequence[int]) -> Self:
        """Take the first eight of these ports."""
        return cls(*ports[:8])

    @property
    def sockets(self) -> tuple[Path, ...]:
        """The Unix sockets that `weed` opens beside its ports; their names cannot be chosen."""
        names = (
            f"s3-{self.s3}",
            f"s3-grpc-{self.s3_grpc}",
            f"master-grpc-{self.master_grpc}",
            f"volume-grpc-{self.volume_grpc}",
            f"filer-{self.filer}",
            f"filer-grpc-{self.filer_grpc}",
        )
        return tuple(SOCKET_FOLDER / f"seaweedfs-{name}.sock" for name in names)


def store_service(
    folder: Path, ports: StorePorts, access_key: str, secret_key: str, bucket: str = "rmbg"
) -> Service:
    """Return a SeaweedFS with its S3 gateway; its data folder and the bucket are created.

    Its flags name files as seen from its working directory: a comma in a path would part it in two.
    """
    make_private_folder(folder)
    volumes = folder / "volumes"
    volumes.mkdir(exist_ok=True)
    identity = {
        "name": "rmbg",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    write_private(config, json.dumps({"identities": [identity]}))
    endpoint = f"http://{LOOPBACK}:{ports.s3}"
    return Service(
        name="weed",
        command=(
            service.script("weed"),
            *_log_flags(folder),
            "server",
            *_server_flags(volumes, ports, config),
        ),
        env=_seaweedfs_environment(folder),
        folder=folder,
        address=endpoint,
        probe=probes.object_store_writable(endpoint, access_key, secret_key, bucket),
        # On SIGTERM its filer waits 15 s for its own S3 gateway. What it has acknowledged is
        # written, so that it may be killed at any time.
        grace=0.5,
        is_server=True,
        reports_kill=False,
        stop_stage=STOP_STAGE,
        leftovers=ports.sockets,
    )


def _log_flags(folder: Path) -> tuple[str, ...]:
    """Log to files of limited size (by default in /tmp), and warnings to standard error, too."""
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return (
        f"-logdir={logs.name}",
        "-log_max_size_mb=10",
        "-alsologtostderr=false",
        "-stderrthreshold=WARNING",
    )


def _server_flags(volumes: Path, ports: StorePorts, config: Path) -> tuple[str, ...]:
    return (
        f"-dir={volumes.name}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        # The master's HTTP API lets anybody delete a bucket.
        "-disableHttp",
        f"-master.port={ports.master}",
        f"-master.port.grpc={ports.master_grpc}",
        f"-master.volumeSizeLimitMB={_VOLUME_MB}",
        # There is one master: with the default of 10 s, a restart after kill -9 takes 20 s.
        "-master.electionTimeout=300ms",
        f"-master.garbageThreshold={_GARBAGE_PART:.9f}",
        f"-master.vacuumIntervalSeconds={_VACUUM_SECONDS}",
        "-master.telemetry=false",
        f"-volume.port={ports.volume}",
        f"-volume.port.grpc={ports.volume_grpc}",
        f"-volume.max={_MAX_VOLUMES}",
        # By default it stops writing at 1 % of the disk, whatever its size.
        f"-volume.minFreeSpace={FREE_BYTES // 2 // 2**20}MiB",
        "-volume.preStopSeconds=0",
        "-filer",
        f"-filer.port={ports.filer}",
        f"-filer.port.grpc={ports.filer_grpc}",
        "-filer.disableHttp",
        "-s3",
        f"-s3.port={ports.s3}",
        f"-s3.port.grpc={ports.s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config.name}",
        "-s3.iam=false",
    )


def _seaweedfs_environment(folder: Path) -> dict[str, str]:
    """Return the settings that have no flag.

    Without the signing keys, every user of this machine could read the volumes, and without the
    certificate, list and delete everything by `weed shell`.
    """
    names = (
        "JWT_SIGNING_KEY",
        "JWT_SIGNING_READ_KEY",
        "JWT_FILER_SIGNING_KEY",
        "JWT_FILER_SIGNING_READ_KEY",
    )
    keys = {f"WEED_{name}": load_credential(folder, name.lower()) for name in names}
    # A new bucket gets two volumes at a time instead of seven.
    return {**keys, **_grpc_environment(folder), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}


def _grpc_environment(folder: Path) -> dict[str, str]:
    """Make a certificate that all parts share: gRPC obeys only who has its key."""
    certificate, key = folder / "grpc-certificate.pem", folder / "grpc-key.pem"
    key_text, certificate_text = _self_signed_certificate()
    write_private(key, key_text)
    write_private(certificate, certificate_text)
    env = {"WEED_GRPC_CA": str(certificate.resolve())}
    for part in _GRPC_PARTS:
        env[f"WEED_GRPC_{part.upper()}_CERT"] = str(certificate.resolve())
        env[f"WEED_GRPC_{part.upper()}_KEY"] = str(key.resolve())
    return env


def _self_signed_certificate() -> tuple[str, str]:
    """Return a new private key and its certificate, which is its own authority, as PEM.

    Raises:
        SetupError: the package `cryptography` is not installed.
    """
    service.require_module("cryptography")
    # Only where the servers run is the package installed.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rmbg-store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # The clock may have been set back since.
        .not_valid_before(now - timedelta(days=_CERTIFICATE_DAYS))
        .not_valid_after(now + timedelta(days=_CERTIFICATE_DAYS))
        .sign(key, hashes.SHA256())
    )
    key_bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key_bytes.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()
