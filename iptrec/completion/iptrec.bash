# Completion of iptrec's commands for bash 4.4 or newer; iptrec completion --help tells how it is switched on.

_iptrec() {
    local candidates kind at
    mapfile -t candidates < <("${1/#\~/$HOME}" completion bash -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    kind=${candidates[0]-}
    COMPREPLY=("${candidates[@]:1}")
    case $kind in
        values)
            [[ ${COMPREPLY[0]-} == *[/,] ]] && compopt -o nospace
            ;;
        files*)
            compopt -o filenames
            local suffix
            for suffix in ${kind#files}; do
                mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -X "!*$suffix" -- "$2")
            done
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$2")
            # Where none is called so: any file, as bash itself completes it.
            ((${#COMPREPLY[@]})) || compopt -o default
            ;;
        command)
            for ((at = 1; at < COMP_CWORD; at++)); do
                [[ ${COMP_WORDS[at]} == -- ]] && break
            done
            if declare -F _comp_command_offset >/dev/null; then
                _comp_command_offset $((at + 1)) # bash-completion 2.12
            elif declare -F _command_offset >/dev/null; then
                _command_offset $((at + 1))
            else
                compopt -o default
            fi
            ;;
    esac
}

complete -F _iptrec iptrec
