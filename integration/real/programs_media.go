package main

// media are programs for pictures, sound and documents.
var media = []program{
	{
		name: "ffmpeg", needs: []string{"ffmpeg=ffmpeg"},
		command: `exec ffmpeg -nostdin -v error -f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=440 -t 14 -threads 3 -c:v libx264 -preset medium -c:a aac -bitexact film.mkv`,
	},
	{
		name: "x264", needs: []string{"x264=x264", "ffmpeg=ffmpeg"},
		setup:   `ffmpeg -nostdin -v error -f lavfi -i mandelbrot=size=480x270:rate=25 -t 6 -pix_fmt yuv420p film.y4m`,
		command: `exec x264 --quiet --no-progress --threads 2 --preset slow -o film.264 ../in/film.y4m`,
	},
	{
		name: "gnuplot", needs: []string{"gnuplot=gnuplot-nox"},
		setup: `cat >job.gp <<'END'
set terminal pngcairo size 900,700
set isosamples 80
set hidden3d
do for [i = 1:9] {
  set output sprintf("plot%d.png", i)
  splot [-3:3][-3:3] sin(x * i) * cos(y * y) / (1 + x * x) with lines, exp(-x * x - y * y) * i with lines
}
END`,
		command: `exec gnuplot ../in/job.gp`,
	},
	{
		name: "imagemagick", needs: []string{"convert=imagemagick"},
		command: `exec convert -seed 4 -size 1300x1300 plasma:fractal -blur 0x9 -swirl 120 -paint 4 -charcoal 2 -strip -define png:exclude-chunks=date,time picture.png`,
	},
	{
		name: "sox", needs: []string{"sox=sox"},
		command: `exec sox -R -n -r 44100 -c 2 sound.wav synth 70 pluck C3 chorus 0.5 0.9 50 0.4 0.25 2 -t reverb 40 pitch 300 tempo 1.1`,
	},
	{
		name: "lame", needs: []string{"lame=lame", "sox=sox"},
		setup:   `sox -R -n -r 44100 -b 16 -c 2 s.wav synth 40 pluck C3 synth brownnoise mix`,
		command: `exec lame --quiet -q 0 -b 192 ../in/s.wav sound.mp3`,
	},
	{
		name: "flac", needs: []string{"flac=flac", "sox=sox"},
		setup:   `sox -R -n -r 44100 -b 16 -c 2 s.wav synth 130 pluck C3 synth brownnoise mix`,
		command: `exec flac -s -8 -e -o sound.flac ../in/s.wav`,
	},
	{
		name: "oggenc", needs: []string{"oggenc=vorbis-tools", "sox=sox"},
		setup:   `sox -R -n -r 44100 -b 16 -c 2 s.wav synth 240 pluck C3 synth brownnoise mix`,
		command: `exec oggenc -Q -q 6 -s 4 -o sound.ogg ../in/s.wav`,
	},
	{
		name: "graphviz", needs: []string{"dot=graphviz"},
		setup:   `awk 'BEGIN { srand(4); print "digraph g {"; for (i = 0; i < 450; i++) printf "n%d -> n%d;\n", int(rand() * 250), int(rand() * 250); print "}" }' >g.dot`,
		command: `exec dot -Tsvg -o graph.svg ../in/g.dot`,
	},
	{
		name: "ghostscript", needs: []string{"gs=ghostscript"},
		setup: `cat >job.ps <<'END'
%!PS
1 1 14 { /n exch def 0 3 360 { gsave 300 400 translate rotate 0 5 200 { dup n div 0 moveto 0.4 setlinewidth dup 200 div 0.3 0.6 setrgbcolor 30 30 60 60 90 0 curveto stroke } for grestore } for showpage } for
END`,
		command: `exec gs -q -dBATCH -dNOPAUSE -sDEVICE=png16m -r170 -sOutputFile=page%d.png ../in/job.ps`,
	},
	{
		name: "groff", needs: []string{"groff=groff-base"},
		setup:   `awk 'BEGIN { srand(4); print ".TH T 1"; for (i = 0; i < 9000; i++) { print ".SH S" i; for (k = 0; k < 90; k++) printf "w%d ", int(rand() * 100000); print "" } }' >t.man`,
		command: `exec groff -man -Tutf8 ../in/t.man`,
	},
}

// archives are programs that compress, encrypt, pack and sort.
var archives = []program{
	{name: "xz", needs: []string{"xz=xz-utils"}, setup: texts + `head -c 10000000 t.txt >s.txt`, command: `exec xz -6 -c ../in/s.txt`},
	{name: "xz -T2", needs: []string{"xz=xz-utils"}, setup: texts + `head -c 5000000 t.txt >s.txt`, command: `exec xz -T2 --block-size=512KiB -4 -c ../in/s.txt`},
	{name: "zstd -T2", needs: []string{"zstd=zstd"}, setup: texts + `head -c 24000000 t.txt >s.txt`, command: `exec zstd -q -T2 -B1MiB -16 -o s.zst ../in/s.txt`},
	{name: "bzip2", needs: []string{"bzip2=bzip2"}, setup: texts + `head -c 15000000 t.txt >s.txt`, command: `exec bzip2 -9 -c ../in/s.txt`},
	{name: "gzip", needs: []string{"gzip=gzip"}, setup: texts, command: `exec gzip -n -9 -c ../in/t.txt`},
	{name: "pigz", needs: []string{"pigz=pigz"}, setup: texts, command: `exec pigz -n -p 3 -9 -c ../in/t.txt`},
	{name: "7zip", needs: []string{"7zz=7zip"}, setup: texts + `head -c 30000000 t.txt >s.txt; touch -d 2020-01-01 s.txt`, command: `exec 7zz a -bso0 -bsp0 -mmt2 -mtm- s.7z ../in/s.txt`},
	{name: "brotli", needs: []string{"brotli=brotli"}, setup: texts + `head -c 6000000 t.txt >s.txt`, command: `exec brotli -q 10 -c ../in/s.txt`},
	{name: "tar and gzip", needs: []string{"tar=tar", "gzip=gzip"}, setup: texts + `mkdir d; split -l 4000 t.txt d/p`, command: `exec tar --sort=name --mtime=@0 -C ../in -czf d.tar.gz d`},
	{name: "gpg", needs: []string{"gpg=gpg"}, setup: texts, command: `mkdir -p -m 0700 ../home; exec gpg --homedir ../home --quiet --batch --no-options --no-random-seed-file --print-md SHA512 ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt ../in/t.txt`},
	{name: "openssl", needs: []string{"openssl=openssl"}, command: `exec openssl enc -aes-256-cbc -pbkdf2 -iter 4000000 -S 0011223344556677 -pass pass:w -in /etc/debian_version -out s.enc`},
	{name: "sha512sum", needs: []string{"sha512sum=coreutils"}, setup: `truncate -s 500M hole`, command: `exec sha512sum ../in/hole`},
	{name: "sort", needs: []string{"sort=coreutils"}, setup: texts + `cut -c1-20 t.txt >s.txt; cut -c30-50 t.txt >>s.txt;`, command: `exec sort --parallel=2 -S 400M -o sorted.txt ../in/s.txt`},
}
