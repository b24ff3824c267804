# Prints at each interval how many connections raindrops finds queued at a unix and a TCP listener.
#
#   raindrops.rb SECONDS PATH HOST:PORT
require "raindrops"

interval = Float(ARGV[0])
paths, addresses = [ARGV[1]], [ARGV[2]]
$stdout.sync = true
clock = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) }
deadline = clock.call
loop do
  unix = Raindrops::Linux.unix_listener_stats(paths)
  tcp = Raindrops::Linux.tcp_listener_stats(addresses)
  puts "#{unix[paths[0]].queued} #{tcp[addresses[0]].queued}"
  deadline += interval while deadline <= clock.call
  sleep(deadline - clock.call)
end
