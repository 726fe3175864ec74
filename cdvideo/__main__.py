from cdvideo.cli import main

main(prog_name="cdvideo")
