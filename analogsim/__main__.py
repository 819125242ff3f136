from analogsim.cli import main

main()
