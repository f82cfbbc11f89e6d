package fetch

import "net/netip"

// https is where files are fetched, and no other port: it is not for strangers to try others.
const https = 443

// public reports whether to is on the public internet, as far as a number can tell.
func public(to netip.AddrPort) bool { return to.Port() == https && publicAddr(to.Addr()) }

func publicAddr(a netip.Addr) bool {
	a = a.Unmap() // ::ffff:127.0.0.1 is 127.0.0.1
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	if a.Is6() && !unicast6.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// unicast6 is all of IPv6 that has been given to the internet; what lies outside of it leads into one's own network, or
// into IPv4 by translation.
var unicast6 = netip.MustParsePrefix("2000::/3")

// special are addresses that are no hosts of the internet (IANA, special-purpose address registries), or that are one's
// own all the same.
var special = prefixes(
	"0.0.0.0/8",        // this network
	"100.64.0.0/10",    // carriers' own, and clouds': 100.100.100.200 tells a machine's secrets
	"168.63.129.16/32", // a cloud's own, though it looks public
	"192.0.0.0/24",     // protocols', and a cloud's
	"192.0.2.0/24",     // for documentation, as are those below that are not said to be otherwise
	"192.88.99.0/24",   // 6to4's
	"198.18.0.0/15",    // for measurements
	"198.51.100.0/24",
	"203.0.113.0/24",
	"240.0.0.0/4", // nobody's
	"2001::/23",   // protocols', Teredo among them
	"2001:db8::/32",
	"2002::/16", // 6to4: an address of IPv4 inside
	"3fff::/20",
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}
