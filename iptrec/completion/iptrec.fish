# Completion of iptrec's commands for fish; iptrec completion --help tells how it is switched on.

function __iptrec_complete
    set -l words (commandline -opc)
    set -l token (commandline -ct)
    set -l program (string replace -r '^~(?=/)' $HOME -- $words[1])
    set -l answer (command $program completion fish -- $words $token 2>/dev/null)
    string join -- \n $answer[2..-1]
    set -l kind (string split ' ' -- $answer[1])
    switch "$kind[1]"
        case files
            set -l value (string replace -r '^--[a-z-]+=' '' -- $token)
            set -l option (string sub -l (math (string length -- $token) - (string length -- $value)) -- $token)
            set -l paths (complete -C "'' $value")
            # Only those that are called so and directories, where there are some.
            set -l suffixes (string join '|' -- (string escape --style=regex -- $kind[2..-1]))
            set -l fitting (string match -r -- "^.*(?:$suffixes|/)\$" $paths)
            test -n "$suffixes" -a -n "$fitting"; and set paths $fitting
            for path in $paths
                echo -- $option$path
            end
        case command
            set -l at (contains -i -- -- $words)
            complete -C (string join ' ' -- (string escape -- $words[(math $at + 1)..-1]) $token | string collect)
    end
end

complete -c iptrec -f -k -a '(__iptrec_complete)'
