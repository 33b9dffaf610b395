# Counts primes with a sieve that grows, a hash of gaps and a regular expression now and then.
use strict;
use warnings;
$| = 1;
my $limit = shift // 60000;
print "READY\n";
my (@primes, %gaps, $text);
for (my $n = 2; $n < $limit; $n++) {
    my $is = 1;
    for my $p (@primes) {
        last if $p * $p > $n;
        if ($n % $p == 0) { $is = 0; last }
    }
    next unless $is;
    $gaps{$n - $primes[-1]}++ if @primes;
    push @primes, $n;
    $text .= "$n,";
    if (@primes % 500 == 0) {
        my $sevens = () = $text =~ /7/g;
        print scalar(@primes), " primes up to $n, $sevens sevens\n";
    }
}
print join(" ", map { "$_:$gaps{$_}" } sort { $a <=> $b } keys %gaps), "\n";
