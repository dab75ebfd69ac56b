"""Ray without a cluster opens nothing to others."""

import contextlib
import ipaddress

import psutil


def test_ray_started_here_listens_on_loopback_alone(ray_local):
    @ray_local.remote(num_cpus=0)
    class Actor:
        def ready(self):
            return True

    actor = Actor.remote()
    assert ray_local.get(actor.ready.remote())
    driver = psutil.Process()
    doors = []
    for process in (driver, *driver.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            sockets = [socket for socket in process.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
            doors += [(process.name(), ipaddress.ip_address(socket.laddr.ip)) for socket in sockets]
    names = {name for name, _ in doors}
    assert {"gcs_server", "raylet"} <= names
    assert any(name.startswith("ray::Actor") for name in names)
    assert [(name, str(ip)) for name, ip in doors if not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback] == []
