# What an administrator typed, one command a line.
ufw default deny incoming
ufw default allow outgoing
ufw default reject routed
ufw allow 22/tcp
ufw limit 2222/tcp
ufw limit proto udp from 198.18.0.0/16 to any port 5000
ufw allow proto tcp to any port 80,443,8000:8010
ufw deny from 198.19.0.0/16
ufw reject out to 198.18.200.0/24 port 25 proto tcp
ufw allow in on eth1 to any port 53
ufw allow log-all proto udp to any port 5353
ufw allow from 2001:db8:ffff:a::/64 to any port 9000 proto udp
ufw deny from 2001:db8:ffff:bad::/64
ufw route allow in on eth0 out on eth2 to 10.2.0.2 port 53 proto udp
ufw route allow in on eth1 out on eth0
ufw route deny in on eth2 from 10.2.0.2 to 198.18.0.0/15
ufw route allow in on eth0 out on eth2 to fd02::2 port 443 proto tcp
ufw logging medium
ufw --force enable
