"""Which URLs can be targets, and which addresses may get events."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from busway.domain.addresses import AllowedTargets, TargetNotAllowed, read_networks
from busway.domain.weburl import read_url

REFUSED = {
    "https://user:pw@example.com/": "must not have a user",
    "https://example.com/#part": "fragment",
    "https://example.com/" + "x" * 2048: "at most 2048",
    "https://exämple.com/": "ASCII",
    "https://example.com\\@10.0.0.1/": "backslashes",
    "https://example.com/a b": "ASCII",
    "https:///path": "https://HOST/PATH",
    "https://example.com:99999/": "port",
    "ftp://example.com/": "https://",
    "https://10.0.0.1/": "not a public address",
    "https://169.254.169.254/latest": "not a public address",
    "https://100.64.0.1/": "not a public address",
    "https://0.0.0.0/": "not a public address",
    "https://224.0.0.1/": "not a public address",
    "https://[::1]/": "not a public address",
    "https://[fe80::1]/": "not a public address",
    "https://[::ffff:10.0.0.1]/": "not a public address",
    "https://[64:ff9b::a00:1]/": "not a public address",
    "https://[2002:a00:1::]/": "not a public address",
    "https://167772161/": "unusual form",
    "https://0xa000001/": "unusual form",
    "https://012.0.0.1/": "unusual form",
    "https://10.1/": "unusual form",
    "https://[fe80::1%25eth0]/": "https://HOST/PATH",
    "http://93.184.216.34/": "only over https",
    "https://-/": "not a DNS name",
}


@pytest.mark.parametrize("url", REFUSED)
def test_urls_that_no_event_may_go_to_are_refused(url: str) -> None:
    assert REFUSED[url] in str(AllowedTargets(read_networks(["192.0.2.7"])).fault(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://Example.COM:8443/a/b?c=d&e=%20",
        "https://xn--exmple-cua.com/",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1:248:1893:25c8:1946]:444/x",
        "https://[64:ff9b::5db8:d822]/",
        "https://a_b.example./",
        "https://example.com/@user",
        "https://192.0.2.7/",
        "http://192.0.2.7:8080/",
        "http://[::ffff:192.0.2.7]/",
        "http://some.name/",
    ],
)
def test_others_are_allowed(url: str) -> None:
    assert AllowedTargets(read_networks(["192.0.2.7"])).fault(url) is None


def test_without_allowed_networks_only_https_is() -> None:
    assert "must begin with https://" in str(AllowedTargets().fault("http://example.com/"))
    assert AllowedTargets().fault("https://example.com/") is None


def test_parts_of_a_url() -> None:
    url = read_url("HTTPS://Example.com:8443/a?b=c")
    assert (url.scheme, url.host, url.port, url.path) == ("https", "example.com", 8443, "/a?b=c")
    assert (url.authority, url.origin) == ("example.com:8443", "https://example.com:8443")
    assert read_url("https://[2001:DB8::1]").authority == "[2001:db8::1]"
    assert read_url("https://example.com?x").path == "/?x"


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "100.127.255.255", "127.9.9.9", "169.254.169.254", "172.31.0.1", "192.168.1.1", "0.1.2.3",
        "198.19.0.1", "224.0.0.251", "255.255.255.255", "240.0.0.1", "192.0.0.170", "168.63.129.16", "::",
        "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "::127.0.0.1", "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "100::1",
        "3fff::1", "5f00::1", "4000::1",
    ],
)  # fmt: skip
def test_one_address_that_is_not_public_refuses_its_name(address: str) -> None:
    url, public = read_url("https://example.com/"), ip_address("93.184.216.34")
    with pytest.raises(TargetNotAllowed, match="not a public address"):
        AllowedTargets().check(url, [public, ip_address(address)])
    AllowedTargets(read_networks([address])).check(url, [public, ip_address(address)])


def test_http_needs_that_all_addresses_are_allowed() -> None:
    targets, url = (
        AllowedTargets(read_networks(["10.0.0.0/8", "fd00::/8"])),
        read_url("http://inner.example/"),
    )
    targets.check(url, [ip_address("10.1.2.3"), ip_address("fd00::7")])
    with pytest.raises(TargetNotAllowed, match="only over https"):
        targets.check(url, [ip_address("10.1.2.3"), ip_address("93.184.216.34")])


@pytest.mark.parametrize("text", ["10.0.0.1/8", "example.com", "10.0.0.0/33", ""])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be an address or a CIDR"):
        read_networks([text])
