"""The two embedded servers: Valkey as Redis, SeaweedFS as the S3 store; on loopback alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from deploy.local import probes, programs
from deploy.local.data_folder import load_credential, write_private
from deploy.local.ports import LOOPBACK
from deploy.local.service import Service

#: After everything that uses them.
STOP_STAGE: Final = 9
#: Objects are packed into volumes of up to this size; they grow, none is allocated ahead.
_VOLUME_MB: Final = 1024
_MAX_VOLUMES: Final = 1024


def valkey_url(port: int, password: str) -> str:
    """The address that clients use."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def valkey_service(folder: Path, port: int, password: str) -> Service:
    """Valkey with an append-only file in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    write_private(config, _valkey_config(folder, port, password))
    return Service(
        name="valkey",
        command=(programs.valkey_server(), str(config)),
        folder=folder,
        address=f"redis://{LOOPBACK}:{port}/0",
        probe=probes.redis_answers(valkey_url(port, password)),
        grace=10,
        stop_stage=STOP_STAGE,
    )


def _valkey_config(folder: Path, port: int, password: str) -> str:
    lines = [
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        # Quoted: a folder's name may have spaces in it.
        f"dir {json.dumps(str(folder.resolve()))}",
        # A queue must survive its server's death, and must never be evicted.
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
        'save ""',
        "daemonize no",
    ]
    return "\n".join([*lines, ""])


@dataclass(frozen=True, slots=True)
class StorePorts:
    """Every port that SeaweedFS opens; one left out would be its default, on a guess."""

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
        """The first eight of these."""
        return cls(*ports[:8])

    @property
    def sockets(self) -> tuple[Path, ...]:
        """Sockets that `weed` makes beside its ports, under names that cannot be chosen."""
        names = (
            f"s3-{self.s3}",
            f"s3-grpc-{self.s3_grpc}",
            f"master-grpc-{self.master_grpc}",
            f"volume-grpc-{self.volume_grpc}",
            f"filer-{self.filer}",
            f"filer-grpc-{self.filer_grpc}",
        )
        return tuple(Path(f"/tmp/seaweedfs-{name}.sock") for name in names)  # noqa: S108 - weed's


def store_service(
    folder: Path, ports: StorePorts, access_key: str, secret_key: str, bucket: str = "rmbg"
) -> Service:
    """SeaweedFS with its S3 gateway over `folder`, which is made; so is the bucket."""
    data = folder / "volumes"
    data.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    write_private(config, _identities(access_key, secret_key))
    endpoint = f"http://{LOOPBACK}:{ports.s3}"
    return Service(
        name="weed",
        command=(
            programs.script("weed"),
            *_store_log_flags(folder),
            "server",
            *_store_flags(data, ports, config),
        ),
        env=_store_env(folder),
        folder=folder,
        address=endpoint,
        probe=probes.store_writes(endpoint, access_key, secret_key, bucket),
        # Its filer waits 15 s for its own S3 gateway to hang up, whatever one does. What it has
        # acknowledged is written: it may be killed at any time.
        grace=0.5,
        reports_kill=False,
        stop_stage=STOP_STAGE,
        leftovers=ports.sockets,
    )


def _identities(access_key: str, secret_key: str) -> str:
    identity = {
        "name": "rmbg",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return json.dumps({"identities": [identity]})


def _store_log_flags(folder: Path) -> tuple[str, ...]:
    """All lines into files of limited size (else it makes them in /tmp), warnings on the screen."""
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return (
        f"-logdir={logs.resolve()}",
        "-log_max_size_mb=10",
        "-alsologtostderr=false",
        "-stderrthreshold=WARNING",
    )


def _store_flags(data: Path, ports: StorePorts, config: Path) -> tuple[str, ...]:
    return (
        f"-dir={data.resolve()}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={ports.master}",
        f"-master.port.grpc={ports.master_grpc}",
        f"-master.volumeSizeLimitMB={_VOLUME_MB}",
        # It votes alone: with the default of 10 s, a restart after kill -9 takes 20 s.
        "-master.electionTimeout=300ms",
        "-master.telemetry=false",
        f"-volume.port={ports.volume}",
        f"-volume.port.grpc={ports.volume_grpc}",
        f"-volume.max={_MAX_VOLUMES}",
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
        f"-s3.config={config.resolve()}",
        "-s3.iam=false",
    )


def _store_env(folder: Path) -> dict[str, str]:
    """Settings that have no flag: keys without which anyone on this machine could read volumes."""
    names = (
        "JWT_SIGNING_KEY",
        "JWT_SIGNING_READ_KEY",
        "JWT_FILER_SIGNING_KEY",
        "JWT_FILER_SIGNING_READ_KEY",
    )
    signing = {f"WEED_{name}": load_credential(folder, name.lower()) for name in names}
    # Two volumes at a time for a new bucket instead of seven.
    return {**signing, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}
