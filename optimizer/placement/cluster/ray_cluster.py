"""A cluster on Ray Serve: starts it, says where it is, and leaves nothing behind.

On a Ray that goes on running, a second cluster of the same name, or elsewhere than Serve listens, is refused. Serve
itself would put it in the place of the first without a word, whose end would then end the second; another address it
would only note in its log.
"""

from __future__ import annotations

import logging
import shutil
import socket
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redecode.optimizer.debugger import debugger_kept
from redecode.optimizer.placement.cluster.errors import ClusterError
from redecode.optimizer.placement.cluster.placing import LastDecision
from redecode.optimizer.placement.cluster.ray_spec import RayMissing, RayReplica, RaySpec, load_ray, pack
from redecode.replay.simulator.views import Provisioner, Router
from redecode.tracer.clock import Clock

_MANY = 100_000
"""Calls a replica may be sent: the engine's own queue orders them, not Serve's."""
_STATS_S = 1.0


class RayCluster:
    """Replicas on Ray Serve, and a policy. Use it as a context manager.

    Args:
        replicas: by rank.
        router: the policy; `None` leaves it to Ray Serve (power of two choices).
        provisioner: decides how many replicas there are, from 1 to `most`; without, all of `replicas` and no more. It
            may share parts with the router: both live in one process.
        why: what the router was given as its log.
        slo_s, slo_by_agent: how long a run may take whose calls do not say; of an agent, and of all others.
        host, port: where Serve's proxy listens.
        cpus, gpus: of each replica.
        max_ongoing_requests: of each replica; Ray Serve's own default is 5.
        name: of the application on Serve; one there may be of it.
        address: of a Ray cluster that is there; one is started here otherwise, and stopped in the end.
        seed: of paced replicas.
    """

    def __init__(
        self,
        replicas: Sequence[RayReplica],
        router: Router | None,
        *,
        provisioner: Provisioner | None = None,
        why: LastDecision | None = None,
        slo_s: float | None = None,
        slo_by_agent: Mapping[str, float] | None = None,
        name: str = "redecode",
        host: str = "127.0.0.1",
        port: int = 8000,
        cpus: float = 1.0,
        gpus: float = 0.0,
        max_ongoing_requests: int = _MANY,
        most: int | None = None,
        address: str | None = None,
        seed: int | None = None,
    ) -> None:
        if not replicas:
            raise ClusterError("a cluster has a replica at least")
        if provisioner is not None and router is None:
            raise ClusterError("a provisioner is asked where our router is: give a router, too")
        self._spec = RaySpec(
            name=name,
            replicas=tuple(replicas),
            router=router,
            why=why,
            provisioner=provisioner,
            began_ns=Clock.start().wall_ns,
            slo_s=slo_s,
            slo_by_agent=slo_by_agent or {},
            seed=seed,
            most=most or len(replicas),
        )
        self._host, self._port, self._cpus, self._gpus = host, port, cpus, gpus
        self._max_ongoing = max_ongoing_requests
        self._address = address
        self._temp: Path | None = None
        self._own = False
        self._deployed = False

    @property
    def url(self) -> str:
        """Of its OpenAI-compatible API, without `/v1`."""
        return f"http://{self._host}:{self._port}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start Ray where there is none, and the replicas; they are up when it returns.

        Raises:
            RayMissing: it is not installed.
            ClusterError: it does not start; or Serve has an application of this name or at this place already, or
                listens elsewhere.
        """
        ray, serve = load_ray()
        from ray.serve.exceptions import RayServeException

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own
            self._own = not ray.is_initialized()
            if self._own:
                if self._address is None:
                    self._check_port()
                self._connect(ray)
            try:
                serve.start(
                    http_options={"host": self._host, "port": self._port},
                    logging_config={"log_level": "WARNING", "enable_access_log": False},
                )
                self._check(serve)
                self._deployed = True
                serve.run(self._app(serve), name=self._spec.name, route_prefix="/")
            except (RuntimeError, RayServeException) as error:
                why = str(error).strip().splitlines()[-1]  # the first ones are of another process's stack
                raise ClusterError(f"Ray Serve did not start the cluster {self._spec.name}: {why}") from error

    def stop(self) -> None:
        """End the cluster, and Ray if it was started here. Does nothing the second time."""
        try:
            ray, serve = load_ray()
        except RayMissing:
            return
        if ray.is_initialized():
            if self._deployed:
                serve.delete(self._spec.name)  # replicas end what they have
            self._deployed = False
            if self._own:
                ray.shutdown()  # and Serve with it: its own shutdown says that it failed
        if self._temp is not None:
            shutil.rmtree(self._temp, ignore_errors=True)
            self._temp = None

    def _check_port(self) -> None:
        """Serve would share a port with the Serve of another Ray, and each get some of the calls."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((self._host, self._port))
            except OSError as error:
                raise ClusterError(
                    f"cannot listen on {self._host}:{self._port}: {error.strerror or error}; choose another port, or "
                    "stop what is there"
                ) from error

    def _check(self, serve: Any) -> None:
        """Refuse what a Serve that runs already would not do, or do to others."""
        from ray.serve.context import _get_global_client

        name = self._spec.name
        if name in serve.status().applications:
            raise ClusterError(
                f"an application {name} is on this Ray already; stop that one first (if nobody is left to: "
                f"`serve.delete({name!r})` in Python)"
            )
        client: Any = _get_global_client()  # nothing public tells it without Ray's dashboard
        there = client.http_config
        if (there.host, there.port) != (self._host, self._port):
            raise ClusterError(
                f"Ray Serve of this Ray listens on {there.host}:{there.port} already, and cannot on "
                f"{self._host}:{self._port} as well; give it that address, or end it (`serve shutdown`)"
            )

    @debugger_kept()
    def _connect(self, ray: Any) -> None:
        if self._address is not None:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
            return
        # Short: Ray puts sockets below it, whose paths must have less than 108 bytes.
        self._temp = Path(tempfile.mkdtemp(prefix="rd-ray-"))
        # For the replicas; Serve itself asks for none. How many there really are is the operating system's care.
        cpus = max(1, ceil(self._cpus * self._spec.most))
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._temp),
        )

    def _app(self, serve: Any) -> Any:
        from redecode.optimizer.placement.cluster.ray_serving import Front, Replicas

        packed = pack(self._spec)
        options: dict[str, Any] = {
            "max_ongoing_requests": self._max_ongoing,
            "ray_actor_options": {"num_cpus": self._cpus, "num_gpus": self._gpus},
            "graceful_shutdown_timeout_s": 20,
        }
        if self._spec.router is not None:
            options["request_router_config"] = {
                "request_router_class": "redecode.optimizer.placement.cluster.ray_router:PolicyRouter",
                "request_router_kwargs": {"spec": packed},
                "request_routing_stats_period_s": _STATS_S,
            }
        if self._spec.provisioner is not None:
            options["autoscaling_config"] = {
                "min_replicas": 1,
                "initial_replicas": self._spec.first,
                "max_replicas": self._spec.most,
                "upscale_delay_s": 0,
                "downscale_delay_s": 0,
                "policy": {
                    "policy_function": "redecode.optimizer.placement.cluster.ray_scaling:PlannedScaling",
                    "policy_kwargs": {"spec": packed},
                },
            }
        else:
            options["num_replicas"] = len(self._spec.replicas)
        replicas = serve.deployment(name="Replicas", **options)(Replicas)
        front = serve.deployment(
            name="Front", num_replicas=1, max_ongoing_requests=_MANY, ray_actor_options={"num_cpus": 0}
        )(Front)
        return front.bind(replicas.bind(packed), packed)
